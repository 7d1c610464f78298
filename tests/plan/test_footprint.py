"""What a network takes: checked against the network itself, the released index and closed forms."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from k25.errors import InputError
from k25.model import PRESETS, K25Config, K25Model, Segments, StreamKeys, experts, initialise, parameter_counts, preset
from k25.model.int4 import packed_shape, scale_shape
from k25.plan.footprint import (
    Recompute,
    WeightFormat,
    all_weights,
    head_activations,
    latent_cache_bytes,
    layer_activations,
    vision_weights,
    weight_bytes,
)
from k25.plan.layout import Layout
from k25.plan.serving import UNPACKED_EXPERTS, ServingLoad, plan_serving, serving_layout, serving_remedies
from k25.plan.serving import fewest_devices as fewest_for_serving
from k25.plan.training import Optimizer, Sharding, TrainingLoad, plan_training, training_layout
from k25.plan.training import fewest_devices as fewest_for_training

GB = 10**9
K25 = preset("k2.5")


@pytest.mark.parametrize("name", PRESETS)
def test_the_parts_add_up_to_every_parameter_of_the_network(name: str) -> None:
    config = PRESETS[name]
    assert sum(weight.numbers for weight in all_weights(config)) == parameter_counts(config)[0]


def test_the_parts_of_the_vision_tower_add_up_to_its_parameters() -> None:
    with torch.device("meta"):
        model = K25Model(K25)
    assert model.vision_tower is not None
    assert model.projector is not None
    modules = [*model.vision_tower.parameters(), *model.projector.parameters()]
    weights = vision_weights(K25.vision, K25.text.hidden_size) if K25.vision else []
    assert sum(weight.numbers for weight in weights) == sum(parameter.numel() for parameter in modules)


def test_muon_takes_the_matrices_between_embeddings_and_head() -> None:
    with torch.device("meta"):
        model = K25Model(preset("nano"))
    ends = ("embedding", "head", "positions", "patch_embedding")
    expected = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2 and not any(end in name for end in ends)
    )
    assert sum(weight.numbers for weight in all_weights(preset("nano")) if weight.muon) == expected


def test_k25_in_int4_has_the_bytes_of_the_released_index() -> None:
    assert weight_bytes(K25, WeightFormat.INT4) == 595_148_192_736


def test_int4_bytes_follow_the_packing_functions() -> None:
    config = preset("small")
    text = config.text
    hidden, width = text.hidden_size, text.moe_intermediate_size
    per_expert = 0
    for shape in ((width, hidden), (width, hidden), (hidden, width)):
        words, scales = packed_shape(shape), scale_shape(shape)
        per_expert += words[0] * words[1] * 4 + scales[0] * scales[1] * 2 + 8 - shape[0] * shape[1] * 2
    difference = weight_bytes(config, WeightFormat.INT4) - weight_bytes(config, WeightFormat.BF16)
    assert difference == per_expert * text.n_routed_experts * text.num_moe_layers


def test_a_width_that_does_not_divide_into_groups_has_no_int4_form() -> None:
    config = replace(preset("nano"), text=replace(preset("nano").text, moe_intermediate_size=40))
    with pytest.raises(InputError, match="40 have no INT4 form"):
        weight_bytes(config, WeightFormat.INT4)


def test_fp8_takes_a_byte_per_value_and_four_per_block_of_128_by_128() -> None:
    down = next(w for w in all_weights(K25) if w.shape == (576, 7168))
    assert down.bytes_in(WeightFormat.FP8) == 576 * 7168 + 5 * 56 * 4
    embedding = all_weights(K25)[0]
    assert embedding.bytes_in(WeightFormat.FP8) == embedding.bytes_in(WeightFormat.BF16)


def test_the_1_8_bit_file_of_k25_takes_about_240_gb() -> None:
    assert weight_bytes(K25, WeightFormat.GGUF) == pytest.approx(240 * GB, rel=1e-6)


def test_a_token_of_k25_takes_70272_bytes_of_cache_and_a_full_context_17_gib() -> None:
    assert latent_cache_bytes(K25.text) == 61 * (512 + 64) * 2 == 70_272
    assert latent_cache_bytes(K25.text) * 262_144 / 2**30 == pytest.approx(17.2, abs=0.05)


def _measure_saved_bytes(model: K25Model, dtype: torch.dtype, tokens: int, layers_recompute: bool = False) -> int:
    """Bytes of the distinct storages that autograd keeps in one training step, weights left out."""
    torch.manual_seed(0)
    model = model.to(dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    if layers_recompute:
        for layer in model.decoder.layers:
            plain = layer.forward
            layer.forward = lambda *inputs, plain=plain: checkpoint(plain, *inputs, use_reentrant=False)
    stream = torch.randint(0, 1000, (tokens,))
    segments = Segments.from_lengths([tokens // 2, tokens - tokens // 2])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(stream, segments.positions(), StreamKeys(segments)).hidden_TD
        F.cross_entropy(model.logits(hidden).float(), stream)
    return sum(storage.nbytes() for storage in kept.values())


def _predicted(config: K25Config, tokens: int, width: int, recompute: Recompute) -> int:
    layers = range(config.text.num_hidden_layers)
    kept = sum(layer_activations(config.text, layer, recompute, width).of(tokens) for layer in layers)
    return kept + head_activations(config.text, width).of(tokens)


@pytest.mark.parametrize("recompute", [Recompute.NONE, Recompute.FULL])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("query_rank", [96, None])
def test_activations_agree_with_what_autograd_keeps(
    recompute: Recompute, dtype: torch.dtype, width: int, query_rank: int | None
) -> None:
    config = replace(preset("nano"), text=replace(preset("nano").text, q_lora_rank=query_rank))
    model = K25Model(config)
    initialise(model, seed=0)
    measured = _measure_saved_bytes(model, dtype, 256, layers_recompute=recompute is Recompute.FULL)
    assert _predicted(config, 256, width, recompute) == pytest.approx(measured, rel=0.06)


def test_selective_recomputation_gets_by_with_what_the_plan_counts() -> None:
    """A layer checkpointed by operator: what is stored are the plan's tensors, and the gradients do not change."""
    tokens = 64
    # Widths that differ, so that each operator is known by its shapes.
    text = replace(preset("nano").text, moe_intermediate_size=56, v_head_dim=40)
    model = K25Model(replace(preset("nano"), text=text))
    initialise(model, seed=0)
    layer = model.decoder.layers[1]
    segments = Segments.from_lengths([tokens])
    inputs = torch.randn(tokens, text.hidden_size)
    angles = torch.randn(tokens, text.qk_rope_head_dim // 2)
    rotations = torch.polar(torch.ones_like(angles), angles)

    def run(x: Tensor) -> Tensor:
        return layer(x, rotations, StreamKeys(segments)).hidden_TD

    stored: list[int] = []
    heads, rows = text.num_attention_heads, tokens * text.num_experts_per_tok
    latents = {text.q_lora_rank, text.latent_width}
    gate_up = 2 * text.moe_intermediate_size

    def stored_values(name: str, arguments: tuple[Tensor, ...]) -> int:
        """Values that an operator's output keeps; 0 where it is recomputed."""
        if "packed_attention" in name and "backward" not in name:
            return tokens * heads * (text.v_head_dim + 1)
        if "grouped_linear" in name:
            return rows * gate_up if arguments[1].shape[1] == gate_up else 0
        if name.startswith("aten.index_select") and len(arguments[2]) == rows:
            return rows * text.hidden_size
        if name.startswith("aten.mm"):
            inputs, outputs = arguments[1].shape
            to_hidden = outputs == text.hidden_size and inputs == heads * text.v_head_dim
            return tokens * outputs if outputs in latents | {gate_up} or to_hidden else 0
        return 0

    def policy(context, operator, *arguments, **_):
        values = stored_values(str(operator), arguments)
        if values and not context.is_recompute:
            stored.append(4 * values)
        return CheckpointPolicy.MUST_SAVE if values else CheckpointPolicy.PREFER_RECOMPUTE

    gradients = []
    for selective in (False, True):
        layer.zero_grad()
        x = inputs.clone().requires_grad_()
        if selective:
            out = checkpoint(
                run, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy)
            )
        else:
            out = run(x)
        out.square().sum().backward()
        gradients.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
    predicted = layer_activations(text, 1, Recompute.SELECTIVE, width=4).of(tokens)
    assert predicted == pytest.approx(sum(stored) + inputs.nbytes, rel=0.06)


def _serving(devices: int, memory: int, **changes: object) -> ServingLoad:
    asked = {
        "config": K25,
        "layout": serving_layout(K25, devices),
        "form": WeightFormat.INT4,
        "memory": memory,
        "context": 262_144,
        "concurrency": 1,
        "chunk": 4096,
    }
    return ServingLoad(**(asked | changes))  # type: ignore[arg-type]


def test_serving_cuts_projections_of_heads_but_repeats_latent_ones_and_the_cache() -> None:
    alone = plan_serving(_serving(1, 2000 * GB))
    eight = plan_serving(_serving(8, 2000 * GB))
    text = K25.text
    latent = text.num_hidden_layers * text.hidden_size * (text.q_lora_rank + text.latent_width) * 2
    assert eight.weights["attention"] == (alone.weights["attention"] - latent) / 8 + latent
    assert eight.weights["routed experts"] == alone.weights["routed experts"] / 8
    assert eight.cache == alone.cache == 262_144 * 70_272


def test_data_parallel_attention_divides_the_cache_between_its_groups() -> None:
    grouped = plan_serving(_serving(8, 2000 * GB, layout=Layout(K25.text, 8, tensor=1, expert=8), concurrency=8))
    assert grouped.cache == 262_144 * 70_272


def test_weights_of_one_device_are_the_checkpoint() -> None:
    for form in WeightFormat:
        plan = plan_serving(_serving(1, 3000 * GB, form=form))
        assert sum(plan.weights.values()) == pytest.approx(plan.checkpoint_bytes, rel=1e-9)


def test_pipeline_stages_together_hold_every_layer_once() -> None:
    layout = Layout(K25.text, 64, pipeline=16)
    stages = layout.stages()
    assert sum(stage.layers for stage in stages) == 61
    assert {stage.layers for stage in stages} == {3, 4}
    numbers = sum(weight.numbers * layers for stage in stages for weight, layers in stage.weights(K25))
    assert numbers == sum(weight.numbers for weight in all_weights(replace(K25, vision=None)))


def test_the_limits_of_serving_fit_and_one_more_does_not() -> None:
    load = _serving(8, 141 * GB)
    plan = plan_serving(load)
    assert plan.fits
    assert plan_serving(replace(load, concurrency=plan.max_concurrency)).fits
    assert not plan_serving(replace(load, concurrency=plan.max_concurrency + 1)).fits
    crowded = replace(load, concurrency=64)
    longest = plan_serving(crowded).max_context
    assert plan_serving(replace(crowded, context=longest)).fits
    assert not plan_serving(replace(crowded, context=longest + 1)).fits


def test_the_fewest_devices_for_serving_fit_and_fewer_do_not() -> None:
    load = _serving(1, 80 * GB)
    fewest = fewest_for_serving(load)
    assert fewest == 16
    assert plan_serving(replace(load, layout=serving_layout(K25, fewest))).fits
    assert not plan_serving(replace(load, layout=serving_layout(K25, 8))).fits


def test_remedies_of_serving_run_from_asking_less_to_other_weights_and_machines() -> None:
    load = _serving(8, 141 * GB, form=WeightFormat.BF16, context=8192, concurrency=4)
    remedies = {remedy.action: remedy.enough for remedy in serving_remedies(load)}
    assert [action.split(" (")[0] for action in remedies if "tensor" not in action] == [
        "fewer requests at a time",
        "a shorter context",
        "fp8 weights",
        "int4 weights",
        "more devices of this memory",
        "a 1.8-bit GGUF, experts offloaded to system memory",
    ]
    assert not remedies["a shorter context"]
    assert not remedies["fp8 weights"]
    assert remedies["int4 weights"]


def test_packed_experts_are_unpacked_as_many_at_a_time_as_the_plan_counts() -> None:
    assert experts._PACKED_EXPERTS_AT_ONCE == UNPACKED_EXPERTS


def _training(config: K25Config, devices: int, memory: int, pipeline: int = 1, **changes: object) -> TrainingLoad:
    layout = training_layout(config, devices, pipeline=pipeline)
    asked = {
        "config": config,
        "layout": layout,
        "memory": memory,
        "micro_batch_tokens": 4096,
        "batch_tokens": 4096 * devices,
        "optimizer": Optimizer.MUONCLIP,
        "sharding": Sharding.ZERO1,
        "recompute": Recompute.FULL,
    }
    return TrainingLoad(**(asked | changes))  # type: ignore[arg-type]


def test_training_on_one_device_takes_14_bytes_per_matrix_parameter_and_18_per_other() -> None:
    config = preset("moonlight-16b-a3b")
    parts = plan_training(_training(config, 1, 1000 * GB)).parts
    states = sum(size for name, size in parts.items() if name.endswith(("(bf16)", "(fp32)")))
    weights = [weight for weight in all_weights(config) if not weight.fp32]
    biases = 4 * sum(weight.numbers for weight in all_weights(config) if weight.fp32)
    assert states == sum(weight.numbers * (14 if weight.muon else 18) for weight in weights) + biases


def test_zero1_divides_experts_only_among_the_devices_that_repeat_them() -> None:
    config = preset("moonlight-16b-a3b")
    load = _training(config, 16, 1000 * GB, layout=Layout(config.text, 16, expert=8))
    plan = plan_training(load)
    muon = adamw = 0.0
    for weight in all_weights(config):
        replicas = 2 if weight.part == "routed experts" else 16
        here = weight.numbers / 8 if weight.part == "routed experts" else weight.numbers
        muon += here / replicas * weight.muon
        adamw += here / replicas * (not weight.muon and not weight.fp32)
    assert plan.parts["master weights (fp32)"] == pytest.approx(4 * (muon + adamw), rel=1e-6)
    assert plan.parts["optimiser states (fp32)"] == pytest.approx(4 * muon + 8 * adamw, rel=1e-6)


def test_the_first_pipeline_stage_keeps_as_many_micro_batches_as_there_are_stages() -> None:
    config = replace(preset("nano"), text=replace(preset("nano").text, first_k_dense_replace=0))
    layer = layer_activations(config.text, 0, Recompute.NONE).of(4096)
    plan = plan_training(_training(config, 4, 1000 * GB, pipeline=4, recompute=Recompute.NONE))
    assert plan.stage == 0
    assert plan.parts["activations"] == 4 * layer
    few = _training(config, 4, 1000 * GB, pipeline=4, recompute=Recompute.NONE, batch_tokens=4096 * 3)
    assert few.micro_batches == 3
    assert plan_training(few).parts["activations"] == 3 * layer


def test_experts_send_each_token_to_its_experts_and_back_and_gradients_are_reduced_once() -> None:
    config = preset("moonlight-16b-a3b")
    load = _training(config, 8, 1000 * GB, recompute=Recompute.NONE, batch_tokens=4096 * 8 * 3)
    sent = plan_training(load).sent_per_step
    assert load.layout.expert == 8
    assert sent["experts, all-to-all"] == 4 * 3 * 26 * 4096 * 6 * 2048 * 2 * 7 // 8
    repeated = sum(w.numbers for w in all_weights(config) if w.part != "routed experts" and not w.fp32)
    assert sent["gradients"] == pytest.approx(4 * repeated * 7 / 8, rel=1e-6)
    assert sent["weights"] == pytest.approx(sent["gradients"] / 2, rel=1e-6)


def test_stronger_recomputation_and_sharding_never_take_more() -> None:
    config = preset("moonlight-16b-a3b")
    by_recompute = [plan_training(_training(config, 8, 80 * GB, recompute=mode)).needed for mode in Recompute]
    by_sharding = [plan_training(_training(config, 64, 80 * GB, sharding=mode)).needed for mode in Sharding]
    assert by_recompute == sorted(by_recompute, reverse=True)
    assert by_sharding == sorted(by_sharding, reverse=True)


def test_the_limits_of_training_fit_and_one_more_does_not() -> None:
    load = _training(preset("moonlight-16b-a3b"), 8, 80 * GB)
    plan = plan_training(load)
    tokens = plan.max_micro_batch_tokens
    assert plan.fits
    assert plan_training(replace(load, micro_batch_tokens=tokens, batch_tokens=tokens * 8)).fits
    assert not plan_training(replace(load, micro_batch_tokens=tokens + 1, batch_tokens=tokens * 8 + 8)).fits


def test_the_fewest_devices_for_training_k25_fit() -> None:
    load = _training(K25, 256, 80 * GB, pipeline=16)
    assert not plan_training(load).fits
    fewest = fewest_for_training(load)
    assert fewest is not None
    assert plan_training(_training(K25, fewest, 80 * GB, pipeline=16)).fits
    assert not plan_training(_training(K25, fewest - 256, 80 * GB, pipeline=16)).fits


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"devices": 0}, "devices is 0"),
        ({"devices": 8, "pipeline": 3}, "8 devices do not divide into 3 pipeline stages"),
        ({"devices": 8, "tensor": 3}, "groups of 3 tensor-parallel ranks"),
        ({"devices": 6, "tensor": 6}, "64 attention heads do not divide over 6"),
        ({"devices": 8, "expert": 5}, "groups of 5 expert-parallel ranks"),
        ({"devices": 512, "expert": 512}, "384 experts do not fill 512"),
        ({"devices": 64, "pipeline": 64}, "61 layers do not fill 64"),
    ],
)
def test_groups_that_do_not_divide_are_named(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layout(K25.text, **sizes)


def test_a_context_beyond_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="300000 is longer than the model's 262144"):
        _serving(8, 80 * GB, context=300_000)


def test_a_load_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="concurrency is 0"):
        _serving(8, 80 * GB, concurrency=0)
    with pytest.raises(InputError, match="micro-batch-tokens is 0"):
        _training(K25, 8, 80 * GB, micro_batch_tokens=0)
