"""Loading and saving: nothing changes on the way, and nothing is left half-written."""

import json
import re

import pytest
import torch
from checkpoint_made_here import (
    TINY,
    assert_same_weights,
    edit_json,
    fingerprints,
    random_model,
    stored,
    text_only,
    with_text,
)
from safetensors.torch import load_file, save_file

from k25.checkpoint import load_model, save_model
from k25.errors import InputError
from k25.model import int4
from k25.model.experts import GroupedExperts, PackedExperts


@pytest.fixture(params=["bfloat16", "int4", "float32"])
def released(request, tmp_path):
    """A folder in the released layout, several shards."""
    model = random_model(TINY, torch.float32 if request.param == "float32" else torch.bfloat16)
    save_model(model, tmp_path / "released", quantise=request.param == "int4", max_shard_bytes=60_000)
    return tmp_path / "released"


@pytest.mark.parametrize("granularity", ["tensor", "shard"])
def test_released_to_ours_to_released_is_byte_identical(released, tmp_path, granularity):
    save_model(load_model(released, granularity=granularity), tmp_path / "again", max_shard_bytes=70_000)
    assert fingerprints(tmp_path / "again") == fingerprints(released)
    assert (tmp_path / "again/config.json").read_bytes() == (released / "config.json").read_bytes()


def test_scales_that_no_rule_of_ours_would_choose_are_kept(tmp_path):
    """The release's scales come from training, not from the largest weight of a group."""
    save_model(random_model(TINY, torch.bfloat16), tmp_path / "released", quantise=True)
    (path,) = (tmp_path / "released").glob("*.safetensors")
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("_scale"):
            tensors[name] = torch.rand(tensor.shape, generator=generator).to(torch.bfloat16)
        if name.endswith("_packed"):
            tensors[name] = torch.randint(-(2**31), 2**31 - 1, tensor.shape, generator=generator).to(torch.int32)
    save_file(tensors, path)
    save_model(load_model(tmp_path / "released"), tmp_path / "again")
    assert fingerprints(tmp_path / "again") == fingerprints(tmp_path / "released")


@pytest.mark.parametrize("config", [TINY, text_only(q_lora_rank=None), with_text(first_k_dense_replace=3)])
def test_a_model_comes_back_as_it_was(config, tmp_path):
    model = random_model(config)
    save_model(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert loaded.config == config
    assert_same_weights(model, loaded)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_int4_experts_load_packed_or_dequantised_alike(tmp_path):
    save_model(random_model(TINY, torch.bfloat16), tmp_path / "saved", quantise=True)
    packed = load_model(tmp_path / "saved").decoder.layers[1].ffn.experts
    plain = load_model(tmp_path / "saved", experts="dequantised").decoder.layers[1].ffn.experts
    assert isinstance(packed, PackedExperts)
    assert isinstance(plain, GroupedExperts)
    assert torch.equal(int4.dequantise(packed.gate_up_packed, packed.gate_up_scale, 64), plain.gate_up)
    assert torch.equal(int4.dequantise(packed.down_packed, packed.down_scale, 32), plain.down)


def test_a_dtype_can_be_asked_for_when_loading(released):
    model = load_model(released, dtype=torch.float32, experts="dequantised")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    file = stored(released)["language_model.lm_head.weight"]
    assert torch.equal(model.decoder.head.weight, file.float())


def test_a_dtype_can_be_asked_for_when_saving_and_spares_the_selection_bias(tmp_path):
    model = random_model(TINY)
    save_model(model, tmp_path / "saved", dtype=torch.bfloat16)
    tensors = stored(tmp_path / "saved")
    bias = tensors.pop("language_model.model.layers.1.mlp.gate.e_score_correction_bias")
    assert torch.equal(bias, model.decoder.layers[1].ffn.router.selection_bias)
    others = {tensor.dtype for name, tensor in tensors.items() if "e_score" not in name}
    assert others == {torch.bfloat16}


def test_names_prefixed_by_language_model_alone_are_read(tmp_path):
    model = random_model(TINY)
    save_model(model, tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.safetensors")
    renamed = {name.replace("language_model.model.", "language_model."): t for name, t in load_file(path).items()}
    path.unlink()
    (tmp_path / "saved/model.safetensors.index.json").unlink()
    save_file(renamed, tmp_path / "saved/model.safetensors")
    assert_same_weights(model, load_model(tmp_path / "saved"))


def test_kimi_vl_names_are_read(tmp_path):
    model = random_model(TINY)
    save_model(model, tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.safetensors")
    (tmp_path / "saved/model.safetensors.index.json").unlink()
    projector = {
        "mm_projector.pre_norm": "pre_norm",
        "mm_projector.proj.0": "linear_1",
        "mm_projector.proj.2": "linear_2",
    }

    def renamed(name):
        module, _, kind = name.rpartition(".")
        return f"multi_modal_projector.{projector[module]}.{kind}" if module in projector else name

    save_file({renamed(name): tensor for name, tensor in load_file(path).items()}, path)
    assert_same_weights(model, load_model(tmp_path / "saved"))


def test_shards_are_named_as_released_and_the_index_is_complete(released):
    index = json.loads((released / "model.safetensors.index.json").read_text())
    names = sorted(path.name for path in released.glob("*.safetensors"))
    assert len(names) > 2
    assert all(re.fullmatch(rf"model-\d{{5}}-of-{len(names):06}\.safetensors", name) for name in names)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(released).values())
    assert {
        name: load_file(released / file)[name].shape for name, file in index["weight_map"].items()
    }.keys() == stored(released).keys()


def test_a_decoder_layer_shares_its_shard_only_where_it_fits(tmp_path):
    save_model(random_model(TINY), tmp_path / "saved", max_shard_bytes=250_000)
    index = json.loads((tmp_path / "saved/model.safetensors.index.json").read_text())
    layers = {}
    for name, file in index["weight_map"].items():
        if match := re.search(r"model\.layers\.(\d+)", name):
            layers.setdefault(match[1], set()).add(file)
    assert all(len(files) == 1 for files in layers.values())
    assert len(set.union(*layers.values())) == 3


def test_symbolic_links_to_files_are_followed(released, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in released.iterdir():
        (linked / file.name).symlink_to(file)
    assert_same_weights(load_model(released), load_model(linked))


def test_progress_ends_at_the_total(released):
    calls = []
    load_model(released, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] == sum(path.stat().st_size for path in released.glob("*.safetensors"))


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        save_model(random_model(TINY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_in_the_way_of_the_unfinished_one_is_left_alone(tmp_path):
    (tmp_path / "saved.partial").mkdir()
    (tmp_path / "saved.partial/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        save_model(random_model(TINY), tmp_path / "saved", overwrite=True)
    assert (tmp_path / "saved.partial/notes.txt").read_text() == "mine"


def test_a_folder_filled_meanwhile_is_not_replaced(tmp_path):
    def fill(done, total, name):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved/notes.txt").write_text("mine")

    with pytest.raises(InputError, match="is not empty"):
        save_model(random_model(TINY), tmp_path / "saved", progress=fill)
    assert (tmp_path / "saved/notes.txt").read_text() == "mine"


def test_saving_over_a_link_to_a_folder_fills_that_folder(released, tmp_path):
    (tmp_path / "link").symlink_to(released)
    model = random_model(text_only())
    save_model(model, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_weights(load_model(released), model)


def test_weights_beyond_float16_are_not_stored_as_infinity(tmp_path):
    model = random_model(TINY)
    with torch.no_grad():
        model.decoder.norm.weight[3] = 1e6
    with pytest.raises(InputError, match=r"model\.norm\.weight has weights beyond the range of float16"):
        save_model(model, tmp_path / "saved", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_spares_whatever_is_not_a_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other things than a checkpoint"):
        save_model(random_model(TINY), tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_replaces_a_checkpoint_whole(released):
    save_model(random_model(text_only()), released, overwrite=True)
    assert load_model(released).config == text_only()
    assert len(list(released.glob("*.safetensors"))) == 1
    assert [path.name for path in released.parent.iterdir()] == ["released"]


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(released):
    before = fingerprints(released)
    broken = random_model(TINY)
    with torch.no_grad():
        broken.decoder.layers[2].ffn.experts.down[1, 5, 7] = torch.nan
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.experts\.1\.down_proj\.weight has NaN"):
        save_model(broken, released, quantise=True, overwrite=True)
    assert fingerprints(released) == before
    assert [path.name for path in released.parent.iterdir()] == ["released"]


def test_widths_that_do_not_divide_into_groups_cannot_become_int4(tmp_path):
    with pytest.raises(InputError, match="multiples of 32"):
        save_model(random_model(with_text(moe_intermediate_size=24)), tmp_path / "saved", quantise=True)


def test_a_missing_parent_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent does not exist"):
        save_model(random_model(TINY), tmp_path / "absent" / "saved")


def test_a_config_that_announces_other_sizes_is_not_believed(released):
    edit_json(released / "config.json", **{"text_config.kv_lora_rank": 16})
    with pytest.raises(InputError, match="of the wrong shape"):
        load_model(released)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("experts", ["packed", "dequantised"])
def test_a_model_loaded_onto_a_gpu_is_the_same(released, experts):
    on_gpu = load_model(released, experts=experts, device="cuda")
    assert {tensor.device.type for tensor in on_gpu.state_dict().values()} == {"cuda"}
    assert_same_weights(on_gpu.cpu(), load_model(released, experts=experts))
