"""Conversion from file to file: what changes, what must not, and going on after an interruption."""

import json

import pytest
import torch
from checkpoint_made_here import (
    TINY,
    assert_same_weights,
    fingerprints,
    random_model,
    stored,
    text_only,
    with_text,
)
from safetensors.torch import load_file, save_file
from transformers import Kimi_K25ForConditionalGeneration

from k25.checkpoint import load_model, save_model
from k25.checkpoint.convert import convert
from k25.errors import InputError
from k25.model import int4

GRANULARITIES = ["tensor", "shard"]
SMALL = 60_000


@pytest.fixture
def bf16(tmp_path):
    save_model(random_model(TINY, torch.bfloat16), tmp_path / "bf16", max_shard_bytes=SMALL)
    return tmp_path / "bf16"


@pytest.fixture
def packed(tmp_path):
    save_model(random_model(TINY, torch.bfloat16), tmp_path / "packed", quantise=True, max_shard_bytes=SMALL)
    return tmp_path / "packed"


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_bf16_to_int4_equals_quantising_the_model(bf16, packed, tmp_path, granularity):
    convert(bf16, tmp_path / "out", experts="int4", granularity=granularity, max_shard_bytes=SMALL)
    assert fingerprints(tmp_path / "out") == fingerprints(packed)
    assert (tmp_path / "out/config.json").read_bytes() == (packed / "config.json").read_bytes()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_int4_to_bf16_equals_dequantising(packed, tmp_path, granularity):
    convert(packed, tmp_path / "out", experts="bf16", granularity=granularity)
    ours, before = stored(tmp_path / "out"), stored(packed)
    stem = "language_model.model.layers.2.mlp.experts.3.down_proj.weight"
    expected = int4.dequantise(before[f"{stem}_packed"], before[f"{stem}_scale"], 32)
    assert torch.equal(ours[stem], expected)
    assert_same_weights(load_model(tmp_path / "out"), load_model(packed, experts="dequantised"))
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("experts", ["keep", "int4"])
def test_int4_is_copied_untouched(packed, tmp_path, granularity, experts):
    convert(packed, tmp_path / "out", experts=experts, granularity=granularity)
    assert fingerprints(tmp_path / "out") == fingerprints(packed)


def test_quantising_again_moves_weights_by_half_a_step_at_most(packed, tmp_path):
    """Half a step, plus three bfloat16 roundings (scale, quotient, product) of values up to 7.5 steps."""
    convert(packed, tmp_path / "plain", experts="bf16")
    convert(tmp_path / "plain", tmp_path / "again", experts="int4")
    before = load_model(packed, experts="dequantised").decoder.layers[1].ffn.experts.down
    model = load_model(tmp_path / "again")
    after = load_model(tmp_path / "again", experts="dequantised").decoder.layers[1].ffn.experts.down
    step = model.decoder.layers[1].ffn.experts.down_scale.repeat_interleave(32, -1)
    moved = (before.float() - after.float()).abs()
    assert (moved <= step.float() * (0.5 + 3 * 7.5 * 2**-8)).all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_dtype_of_ordinary_tensors_can_change(packed, tmp_path, granularity):
    convert(packed, tmp_path / "out", dtype=torch.float32, granularity=granularity)
    before, after = stored(packed), stored(tmp_path / "out")
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        if ".experts." in name and "shared" not in name:
            assert torch.equal(tensor, before[name])
            assert tensor.dtype == before[name].dtype
        else:
            assert torch.equal(tensor, before[name].float())
            assert tensor.dtype == torch.float32
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("experts", ["keep", "int4"])
def test_the_transformers_layout_becomes_the_released_one(tmp_path, granularity, experts):
    ours = random_model(TINY)
    save_model(ours, tmp_path / "ours", quantise=experts == "int4")
    save_model(ours, tmp_path / "plain")
    theirs = Kimi_K25ForConditionalGeneration.from_pretrained(tmp_path / "plain")
    (tmp_path / "native").mkdir()
    theirs.config.save_pretrained(tmp_path / "native")
    state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    shards = {name: f"model-{position % 3}.safetensors" for position, name in enumerate(state)}  # scattered at will
    for file in set(shards.values()):
        save_file({name: tensor for name, tensor in state.items() if shards[name] == file}, tmp_path / "native" / file)
    (tmp_path / "native/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    convert(tmp_path / "native", tmp_path / "out", experts=experts, granularity=granularity)
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "ours")


def test_a_text_only_checkpoint_converts(tmp_path):
    save_model(random_model(text_only(q_lora_rank=None)), tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", experts="int4", dtype=torch.bfloat16)
    assert load_model(tmp_path / "out").config == text_only(q_lora_rank=None)


def test_tokenizer_and_processor_files_come_along_but_no_code(bf16, tmp_path):
    carried = [
        "tiktoken.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
        "generation_config.json",
    ]
    for name in [*carried, "modeling_kimi_k25.py", "weights.bin", "README.md"]:
        (bf16 / name).write_text(name)
    convert(bf16, tmp_path / "out")
    others = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors"}
    assert others == {*carried, "config.json", "model.safetensors.index.json"}
    assert (tmp_path / "out/tiktoken.model").read_text() == "tiktoken.model"


class StopError(Exception):
    pass


def interrupted(source, out, after, **options):
    """Convert until `after` bytes are written."""

    def stop(done, total, name):
        if done >= after:
            raise StopError

    with pytest.raises(StopError):
        convert(source, out, progress=stop, max_shard_bytes=SMALL, **options)


def test_an_interrupted_conversion_goes_on_with_its_finished_shards(bf16, packed, tmp_path):
    out = tmp_path / "out"
    interrupted(bf16, out, 150_000, experts="int4")
    assert not out.exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("*.safetensors")}
    assert len(finished) >= 2
    written = []
    convert(bf16, out, experts="int4", max_shard_bytes=SMALL, progress=lambda done, total, name: written.append(name))
    assert not {path.name for path in finished} & set(written)
    assert all((out / path.name).stat().st_mtime_ns == time for path, time in finished.items())
    assert fingerprints(out) == fingerprints(packed)
    assert not (tmp_path / "out.partial").exists()
    assert not (out / "unfinished.json").exists()


def test_a_shard_cut_short_by_a_crash_is_written_again(bf16, tmp_path):
    interrupted(bf16, tmp_path / "out", 150_000)
    (path, *_) = sorted((tmp_path / "out.partial").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])
    convert(bf16, tmp_path / "out", max_shard_bytes=SMALL)
    assert fingerprints(tmp_path / "out") == fingerprints(bf16)


def test_saving_a_model_does_not_discard_an_unfinished_conversion(bf16, tmp_path):
    interrupted(bf16, tmp_path / "out", 150_000)
    with pytest.raises(InputError, match=r"out\.partial was left by a run"):
        save_model(random_model(TINY), tmp_path / "out")
    convert(bf16, tmp_path / "out", max_shard_bytes=SMALL)


def test_other_options_do_not_go_on_from_an_interrupted_conversion(bf16, tmp_path):
    interrupted(bf16, tmp_path / "out", 150_000, experts="int4")
    with pytest.raises(InputError, match=r"out\.partial was left by a run with another source or other options"):
        convert(bf16, tmp_path / "out", max_shard_bytes=SMALL)
    convert(bf16, tmp_path / "out", max_shard_bytes=SMALL, overwrite=True)
    assert fingerprints(tmp_path / "out") == fingerprints(bf16)


def test_a_changed_source_does_not_go_on_from_an_interrupted_conversion(bf16, tmp_path):
    interrupted(bf16, tmp_path / "out", 150_000)
    (path, *_) = sorted(bf16.glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="another source"):
        convert(bf16, tmp_path / "out", max_shard_bytes=SMALL)


def test_a_folder_that_only_looks_unfinished_is_left_alone(bf16, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        convert(bf16, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.partial/notes.txt").read_text() == "mine"


def test_the_source_itself_is_never_the_destination(bf16, tmp_path):
    before = fingerprints(bf16)
    (tmp_path / "link").symlink_to(bf16)
    for destination in (bf16, tmp_path / "link"):
        with pytest.raises(InputError, match="is the source itself"):
            convert(bf16, destination, overwrite=True)
    assert fingerprints(bf16) == before


def test_a_full_disk_is_noticed_before_anything_is_written(bf16, tmp_path, monkeypatch):
    monkeypatch.setattr("k25.checkpoint.writer.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match="GB are needed"):
        convert(bf16, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_infinite_weights_cannot_become_int4(tmp_path):
    model = random_model(TINY)
    with torch.no_grad():
        model.decoder.layers[1].ffn.experts.gate_up[2, 1, 0, 0] = torch.inf
    save_model(model, tmp_path / "in")
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.experts\.2\.up_proj\.weight has NaN or infinite"):
        convert(tmp_path / "in", tmp_path / "out", experts="int4")


def test_widths_that_do_not_divide_into_groups_are_named(tmp_path):
    save_model(random_model(with_text(moe_intermediate_size=24)), tmp_path / "in")
    with pytest.raises(InputError, match="multiples of 32"):
        convert(tmp_path / "in", tmp_path / "out", experts="int4")
