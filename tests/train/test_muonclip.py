"""MuonClip against the equations of its paper, one matrix at a time, and against torch's Muon and AdamW."""

import copy
import math

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optimiser_builders import naive_matrices, naive_newton_schulz, random_gradients, small_model
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from k25.model import K25Model
from k25.train.muonclip import MuonClip
from k25.train.newton_schulz import newton_schulz, orthogonal_updates
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parameter_groups import parameter_groups

CONFIG = OptimizerConfig(muon_lr=0.02, adamw_lr=0.003, newton_schulz_dtype="float32")
TABLES = {
    "decoder.embedding.weight",
    "decoder.head.weight",
    "vision_tower.patch_embedding.projection.weight",
    "vision_tower.patch_embedding.positions",
}


def names_by_role(model: torch.nn.Module) -> dict[str, set[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {group["role"]: {names[p] for p in group["params"]} for group in parameter_groups(model, CONFIG)}


def run(model: K25Model, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for name, gradient in random_gradients(model, seed=step).items():
            model.get_parameter(name).grad = gradient
        optimiser.step()


def weights(model: K25Model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_every_parameter_is_in_one_group_by_its_role():
    model = small_model()
    roles = names_by_role(model)
    assert sorted(name for names in roles.values() for name in names) == sorted(dict(model.named_parameters()))
    assert roles["tables"] == TABLES
    assert roles["vectors"] == {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert roles["fused"] == {"vision_tower.blocks.0.qkv.weight"}
    assert {"decoder.layers.1.ffn.router.weight", "projector.up.weight"} < roles["matrices"]


def test_a_part_of_the_network_has_the_roles_that_it_has_in_the_whole():
    assert names_by_role(small_model().decoder)["tables"] == {"embedding.weight", "head.weight"}


def test_matrices_follow_the_equations_of_muon():
    model = small_model()
    roles, start = names_by_role(model), weights(model)
    expected = {name: start[name] for name in roles["matrices"] | roles["fused"]}
    momentum = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    run(model, MuonClip(model, CONFIG), range(3))
    for step in range(3):
        gradients = random_gradients(model, seed=step)
        for name, weight in expected.items():
            momentum[name] = 0.95 * momentum[name] + gradients[name]
            update = gradients[name] + 0.95 * momentum[name]
            for matrix, matrix_update in zip(naive_matrices(name, weight), naive_matrices(name, update), strict=True):
                orthogonal = naive_newton_schulz(matrix_update) * 0.2 * math.sqrt(max(matrix.shape))
                matrix.sub_(0.02 * (orthogonal.float() + 0.1 * matrix))
    for name, weight in expected.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), weight, rtol=0, atol=2e-6, msg=name)


def test_other_parameters_follow_torchs_adamw():
    model, other = small_model(), small_model()
    roles = names_by_role(other)
    adamw = torch.optim.AdamW(
        [
            {"params": [other.get_parameter(name) for name in roles["tables"]], "weight_decay": 0.1},
            {"params": [other.get_parameter(name) for name in roles["vectors"]], "weight_decay": 0.0},
        ],
        lr=0.003,
        betas=(0.9, 0.95),
        fused=False,
        foreach=False,
    )
    run(model, MuonClip(model, CONFIG), range(3))
    run(other, adamw, range(3))
    for name in roles["tables"] | roles["vectors"]:
        torch.testing.assert_close(model.get_parameter(name), other.get_parameter(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_one_matrix_agrees_with_torchs_muon_in_bfloat16(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    theirs = torch.nn.Parameter(start.clone())
    muon = torch.optim.Muon([theirs], lr=0.02, adjust_lr_fn="match_rms_adamw")
    ours = torch.nn.Linear(shape[1], shape[0], bias=False)
    ours.weight.data.copy_(start)
    optimiser = MuonClip(ours, OptimizerConfig(muon_lr=0.02))
    for gradient in gradients:
        theirs.grad = ours.weight.grad = gradient
        muon.step()
        optimiser.step()
    size = (theirs - start).norm()
    assert (ours.weight - theirs).norm() < 0.02 * size


def test_newton_schulz_brings_singular_values_near_one():
    torch.manual_seed(0)
    singular_values = torch.linalg.svdvals(newton_schulz(torch.randn(4, 24, 40), torch.float32))
    assert 0.6 < singular_values.min() < singular_values.max() < 1.3


def test_updates_have_the_root_mean_square_of_adamw():
    torch.manual_seed(0)
    for update in orthogonal_updates([torch.randn(2, 24, 96), torch.randn(3, 96, 24)], torch.float32):
        assert 0.15 < update.square().mean().sqrt() < 0.25


def test_a_matrix_without_gradient_values_stays_finite():
    (update,) = orthogonal_updates([torch.zeros(1, 8, 8)], torch.bfloat16)
    assert update.abs().max() == 0


def test_parameters_without_gradient_are_left_alone():
    model = small_model()
    before = weights(model)
    optimiser = MuonClip(model, CONFIG)
    for name, gradient in random_gradients(model, seed=0).items():
        if name.startswith("decoder"):
            model.get_parameter(name).grad = gradient
    optimiser.step()
    for name, weight in before.items():
        assert torch.equal(weight, model.get_parameter(name)) == (not name.startswith("decoder"))


def test_scaling_the_learning_rates_keeps_the_ratio_of_groups():
    model = small_model()
    optimiser = MuonClip(model, CONFIG)
    optimiser.scale_learning_rates(0.5)
    assert {group["algorithm"]: group["lr"] for group in optimiser.param_groups} == {"muon": 0.01, "adamw": 0.0015}


def test_restored_state_continues_bit_for_bit():
    model = small_model()
    optimiser = MuonClip(model, CONFIG)
    run(model, optimiser, range(2))
    resumed = small_model()
    resumed.load_state_dict(model.state_dict())
    restored = MuonClip(resumed, CONFIG)
    restored.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    run(model, optimiser, range(2, 4))
    run(resumed, restored, range(2, 4))
    for name, weight in weights(model).items():
        assert torch.equal(weight, resumed.get_parameter(name)), name


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_taken_before_the_first_image_can_be_resumed(tmp_path):
    model = small_model()
    optimiser = MuonClip(model, CONFIG)
    for name, gradient in random_gradients(model, seed=0).items():
        if name.startswith("decoder"):
            model.get_parameter(name).grad = gradient
    optimiser.step()
    dcp.save(get_optimizer_state_dict(model, optimiser), checkpoint_id=tmp_path / "optimiser")
    resumed = small_model()
    resumed.load_state_dict(model.state_dict())
    restored = MuonClip(resumed, CONFIG)
    state = get_optimizer_state_dict(resumed, restored)
    dcp.load(state, checkpoint_id=tmp_path / "optimiser")
    set_optimizer_state_dict(resumed, restored, state)
    run(model, optimiser, range(1, 3))
    run(resumed, restored, range(1, 3))
    for name, weight in weights(model).items():
        assert torch.equal(weight, resumed.get_parameter(name)), name


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_newton_schulz_takes_bfloat16_by_itself_only_where_the_cpu_has_it(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    stepped = {}
    for setting in ("auto", "bfloat16", "float32"):
        model = small_model()
        config = CONFIG.model_copy(update={"newton_schulz_dtype": setting})
        run(model, MuonClip(model, config), range(1))
        stepped[setting] = weights(model)
    other = {"bfloat16": "float32", "float32": "bfloat16"}[dtype]
    same = {
        setting: all(torch.equal(stepped["auto"][n], w) for n, w in stepped[setting].items()) for setting in stepped
    }
    assert same == {"auto": True, dtype: True, other: False}


@pytest.mark.parametrize("field", [{"muon_lr": -1}, {"momentum": 1.0}, {"newton_schulz_dtype": "float16"}, {"lr": 1}])
def test_contradictory_settings_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        OptimizerConfig(**field)


def test_matrices_can_be_left_to_adamw_for_comparison():
    model = small_model()
    groups = parameter_groups(model, OptimizerConfig(matrices="adamw", weight_decay=0.1))
    assert {group["algorithm"] for group in groups} == {"adamw"}
    assert {group["role"]: group["weight_decay"] for group in groups} == {
        "matrices": 0.1,
        "fused": 0.1,
        "tables": 0.1,
        "vectors": 0.0,
    }
