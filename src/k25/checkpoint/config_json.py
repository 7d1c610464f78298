"""Reading `config.json` in every spelling the family uses.

| files                                         | text model      | vision tower                                   |
|-----------------------------------------------|-----------------|------------------------------------------------|
| K2.5 as released                              | `text_config`   | `vision_config` with `vt_*`, `init_pos_emb_*`  |
| transformers 5 (`kimi_k25`)                   | `text_config`   | `hidden_size`...; rope in `rope_parameters`    |
| Kimi-VL                                       | `text_config`   | `hidden_size`... with `init_pos_emb_*`         |
| K2, Moonlight, DeepSeek-V3 layout             | the top level   | none                                           |

Keys that change nothing here are ignored. A key that asks for something this network does not compute, or two keys that
disagree, are errors.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k25.checkpoint.json_file import read_json
from k25.errors import InputError
from k25.model import K25Config, TextConfig, VisionConfig, YarnScaling

# What the network computes; a file that says otherwise is another model. A missing key means the value given here.
_TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "norm_topk_prob": (True,),
    "n_group": (1, None),
    "topk_group": (1, None),
    "moe_layer_freq": (1,),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "rope_interleave": (True,),
}
_VISION_FIXED: dict[str, tuple[Any, ...]] = {
    "pos_emb_type": ("divided_fixed",),
    "merge_type": ("sd2_tpool",),
    "video_attn_type": ("spatial_temporal",),
    "mm_projector_type": ("patchmerger",),
    "projector_hidden_act": ("gelu",),
    "hidden_act": ("gelu_pytorch_tanh",),
}
_TEXT_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_experts_per_tok",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "n_shared_experts",
    "first_k_dense_replace",
    "max_position_embeddings",
)
_LARGEST_NUMBER = 1e30
_INT4_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}


@dataclass(frozen=True)
class ConfigFile:
    """What a config.json says: the network, and whether its routed experts are stored in INT4."""

    model: K25Config
    int4_experts: bool


class _Section:
    """One JSON object of the file; every complaint names file, section and key."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        self.path, self.name, self.values = path, name, values

    def error(self, key: str, problem: str) -> InputError:
        return InputError(f"{self.path}: {self.name + '.' if self.name else ''}{key} {problem}")

    def section(self, key: str) -> "_Section":
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.error(key, "must be an object")
        return _Section(self.path, f"{self.name}.{key}" if self.name else key, value)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def spelled(self, *keys: str) -> str | None:
        """The spelling that is present; those present must agree."""
        present = [key for key in keys if self.has(key)]
        for other in present[1:]:
            if self.values[other] != self.values[present[0]]:
                raise self.error(present[0], f"is {self.values[present[0]]!r} but {other} is {self.values[other]!r}")
        return present[0] if present else None

    def integer(self, *keys: str, default: int | None = None) -> int:
        key = self.spelled(*keys)
        if key is None:
            if default is None:
                raise self.error(keys[0], "is missing")
            return default
        if type(self.values[key]) is not int:
            raise self.error(key, f"must be an integer, not {self.values[key]!r}")
        return int(self.values[key])

    def number(self, key: str, default: float | None = None) -> float:
        if not self.has(key):
            if default is None:
                raise self.error(key, "is missing")
            return default
        value = self.values[key]
        if type(value) not in (int, float) or not -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
            raise self.error(key, f"must be a number, not {value!r}")
        return float(value)

    def require(self, fixed: Mapping[str, tuple[Any, ...]]) -> None:
        for key, allowed in fixed.items():
            if self.values.get(key, allowed[0]) not in allowed:
                raise self.error(key, f"is {self.values[key]!r}; only {allowed[0]!r} is supported")

    def equal(self, key: str, expected: int, meaning: str) -> None:
        if self.has(key) and self.values[key] != expected:
            raise self.error(key, f"is {self.values[key]!r} but {meaning} is {expected}: the file is contradictory")


def read_config(path: Path) -> ConfigFile:
    """Read a config.json. Raises InputError naming file and key where one is missing, contradictory or unsupported."""
    top = _Section(path, "", read_json(path))
    text_section = top.section("text_config") if "text_config" in top.values else top
    text = _text_config(text_section)
    vision = None
    if top.has("vision_config"):
        top.require({"tie_word_embeddings": (False,)})
        vision = _vision_config(top, top.section("vision_config"), text)
    elif text_section is not top:
        raise top.error("vision_config", "is missing beside text_config")
    tokens = _tokens(top, text_section)
    with _naming(path):
        model = K25Config(text=text, vision=vision, **tokens)
    return ConfigFile(model, _int4_experts(top, text_section))


def _text_config(section: _Section) -> TextConfig:
    section.require(_TEXT_FIXED)
    values: dict[str, Any] = {name: section.integer(name) for name in _TEXT_INTEGERS}
    section.equal("num_key_value_heads", values["num_attention_heads"], "num_attention_heads")
    values["q_lora_rank"] = section.integer("q_lora_rank") if section.has("q_lora_rank") else None
    values["routed_scaling_factor"] = section.number("routed_scaling_factor")
    values["rms_norm_eps"] = section.number("rms_norm_eps")
    values["latent_norm_eps"] = section.number("latent_norm_eps", TextConfig.latent_norm_eps)
    values["rope_theta"], values["rope_scaling"] = _rope(section)
    with _naming(section.path):
        return TextConfig(**values)


def _rope(section: _Section) -> tuple[float, YarnScaling | None]:
    """Theta and scaling, from `rope_theta` and `rope_scaling` or from transformers 5's `rope_parameters`."""
    parameters = section.section("rope_parameters") if section.has("rope_parameters") else None
    old = section.section("rope_scaling") if section.has("rope_scaling") else None
    theta = section.number("rope_theta", parameters.number("rope_theta") if parameters else None)
    if parameters and parameters.number("rope_theta", theta) != theta:
        raise parameters.error("rope_theta", f"is {parameters.number('rope_theta')} but rope_theta is {theta}")
    found = [_yarn(part) for part in (parameters, old) if part]
    if len(found) == 2 and found[0] != found[1]:
        raise section.error("rope_scaling", "and rope_parameters disagree")
    return theta, found[0] if found else None


def _yarn(section: _Section) -> YarnScaling | None:
    kind = section.spelled("rope_type", "type")
    name = section.values[kind] if kind else "default"
    if name == "default":
        return None
    if name != "yarn":
        raise section.error(str(kind), f"is {name!r}; only 'yarn' is supported")
    section.require({"attention_factor": (None,), "truncate": (True, None)})
    numbers = {
        "factor": section.number("factor"),
        "beta_fast": section.number("beta_fast", 32.0),
        "beta_slow": section.number("beta_slow", 1.0),
        # DeepSeek's published code takes these where the file is silent.
        "mscale": section.number("mscale", 1.0),
        "mscale_all_dim": section.number("mscale_all_dim", 0.0),
    }
    original = section.integer("original_max_position_embeddings")
    with _naming(section.path):
        return YarnScaling(**numbers, original_max_position_embeddings=original)


def _vision_config(top: _Section, section: _Section, text: TextConfig) -> VisionConfig:
    section.require(_VISION_FIXED)
    width = section.integer("vt_hidden_size", "hidden_size")
    section.equal("mm_hidden_size", width, "the tower's hidden size")
    section.equal("text_hidden_size", text.hidden_size, "text_config.hidden_size")
    top.equal("projection_hidden_size", width, "the tower's hidden size")
    merge = section.values.get("merge_kernel_size", [2, 2])
    if not isinstance(merge, list) or len(merge) != 2 or not all(type(side) is int for side in merge):
        raise section.error("merge_kernel_size", f"must be two integers, not {merge!r}")
    sizes = {
        "intermediate_size": section.integer("vt_intermediate_size", "intermediate_size"),
        "num_attention_heads": section.integer("vt_num_attention_heads", "num_attention_heads"),
        "num_hidden_layers": section.integer("vt_num_hidden_layers", "num_hidden_layers"),
        "patch_size": section.integer("patch_size"),
        "pos_emb_height": section.integer("init_pos_emb_height", "pos_emb_height"),
        "pos_emb_width": section.integer("init_pos_emb_width", "pos_emb_width"),
        # Kimi-VL's 2-D tower names no time; one frame is embedded alike whatever the limit.
        "pos_emb_time": section.integer("init_pos_emb_time", "pos_emb_time", default=VisionConfig.pos_emb_time),
    }
    eps = section.number("projector_ln_eps", top.number("projection_layer_norm_eps", VisionConfig.projector_ln_eps))
    with _naming(section.path):
        return VisionConfig(hidden_size=width, merge_kernel_size=(merge[0], merge[1]), projector_ln_eps=eps, **sizes)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Contradictions that the configuration classes find are the file's."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _tokens(top: _Section, text: _Section) -> dict[str, int]:
    """Control tokens, from the top level first. Text-only files may lack a padding and a media token."""

    def token(*keys: str, default: int | None = None) -> int:
        for section in (top, text):
            key = section.spelled(*keys)
            if key is not None:
                value = section.values[key]
                first = value[0] if isinstance(value, list) and value else value
                if type(first) is not int:
                    raise section.error(key, f"must be a token id, not {value!r}")
                return first
        if default is None:
            raise top.error(keys[0], "is missing")
        return default

    eos = token("eos_token_id")
    pad = token("pad_token_id", default=eos)
    return {
        "bos_token_id": token("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": pad,
        "media_placeholder_token_id": token(
            "media_placeholder_token_id", "image_token_id", default=None if top.has("vision_config") else pad
        ),
    }


def _int4_experts(top: _Section, text: _Section) -> bool:
    found = [part.section("quantization_config") for part in (top, text) if part.has("quantization_config")]
    if not found:
        return False
    if any(section.values != found[0].values for section in found):
        raise found[0].error("quant_method", "differs between the top level and text_config: the file is contradictory")
    section = found[0]
    for key, expected in (("quant_method", "compressed-tensors"), ("format", "pack-quantized")):
        if section.values.get(key) != expected:
            raise section.error(key, f"is {section.values.get(key)!r}; only {expected!r} is supported")
    groups = section.section("config_groups") if section.has("config_groups") else None
    if groups is None or len(groups.values) != 1:
        raise section.error("config_groups", "must name exactly one group")
    group = groups.section(next(iter(groups.values)))
    if not group.has("weights") or group.has("input_activations") or group.has("output_activations"):
        raise group.error("weights", "must be the only thing that is quantised")
    weights = group.section("weights")
    for key, value in _INT4_WEIGHTS.items():
        if weights.values.get(key) != value:
            raise weights.error(key, f"is {weights.values.get(key)!r}; only {value!r} is supported")
    weights.require({"actorder": (None,), "dynamic": (False,)})
    return True
