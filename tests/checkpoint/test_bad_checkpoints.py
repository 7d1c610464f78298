"""Every way a checkpoint folder can be wrong: one line that names the file and the tensor, and never a crash."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from checkpoint_made_here import TINY, edit_json, random_model
from safetensors.torch import load_file, save_file

from k25.checkpoint import load_model, save_model
from k25.errors import InputError

INDEX = "model.safetensors.index.json"
NORM = "language_model.model.layers.1.input_layernorm.weight"
SECOND_NORM = "language_model.model.layers.1.post_attention_layernorm.weight"
SCALE = "language_model.model.layers.1.mlp.experts.2.up_proj.weight_scale"
SHAPE = SCALE.removesuffix("scale") + "shape"
PACKED = SCALE.removesuffix("scale") + "packed"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine") / "checkpoint"
    save_model(random_model(TINY, torch.bfloat16), folder, quantise=True, max_shard_bytes=60_000)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in pristine.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def edit_shard(folder: Path, name: str, change) -> None:
    """Apply `change` to the tensors of the shard that holds `name`, and bring the index in line."""
    path = shard_of(folder, name)
    before = load_file(path)
    after = dict(before)
    change(after)
    save_file(after, path)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: file for key, file in index["weight_map"].items() if key in after or key not in before}
    index["weight_map"] |= dict.fromkeys(after, path.name)
    (folder / INDEX).write_text(json.dumps(index))


def complaint(folder: Path, **options) -> str:
    with pytest.raises(InputError) as error:
        load_model(folder, **options)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_the_untouched_copy_loads(folder):
    load_model(folder)


def test_a_truncated_shard(folder):
    path = shard_of(folder, SCALE)
    path.write_bytes(path.read_bytes()[:-10])
    assert re.search(rf"{path.name}: tensor \S+ ends at byte .* truncated", complaint(folder))


def test_a_shard_cut_within_its_header(folder):
    path = shard_of(folder, SCALE)
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path.name} is not a safetensors file" in complaint(folder)


def test_an_absent_shard(folder):
    path = shard_of(folder, SCALE)
    path.unlink()
    assert f"cannot read {path}" in complaint(folder)


def test_a_shard_that_is_a_folder(folder):
    path = shard_of(folder, SCALE)
    path.unlink()
    path.mkdir()
    assert f"cannot read {path}" in complaint(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may read everything")
def test_a_shard_without_permission(folder):
    path = shard_of(folder, SCALE)
    path.chmod(0)
    assert f"cannot read {path}: Permission denied" in complaint(folder)


@pytest.mark.parametrize("name", ["config.json", INDEX, "shard"])
def test_a_pipe_is_refused_instead_of_waited_for(folder, name):
    path = shard_of(folder, SCALE) if name == "shard" else folder / name
    path.unlink()
    os.mkfifo(path)
    assert f"cannot read {path}: it is not a file" in complaint(folder)


def test_a_config_of_a_billion_layers_is_refused_at_once(folder):
    edit_json(folder / "config.json", **{"text_config.num_hidden_layers": 10**9})
    assert "config.json describes more than" in complaint(folder)


def test_a_tensor_name_with_a_line_break_stays_one_line(folder):
    edit_shard(folder, NORM, lambda tensors: tensors.update({"two\nlines": torch.ones(1)}))
    assert r"'two\nlines'" in complaint(folder)


def test_a_link_that_leads_nowhere(folder):
    path = shard_of(folder, SCALE)
    path.unlink()
    path.symlink_to(folder / "absent")
    assert f"cannot read {path}" in complaint(folder)


def test_a_wrong_shape(folder):
    edit_shard(folder, NORM, lambda tensors: tensors.update({NORM: torch.ones(63)}))
    expected = f"1 of the wrong shape ({NORM} in {shard_of(folder, NORM).name} is [63] instead of [64])"
    assert expected in complaint(folder)


def test_a_missing_an_unexpected_and_a_misshapen_tensor_in_one_message(folder):
    def change(tensors):
        tensors["language_model.model.layers.1.extra"] = tensors.pop(NORM)
        tensors[SECOND_NORM] = torch.ones(2, 32)

    edit_shard(folder, NORM, change)
    message = complaint(folder)
    assert f"1 missing ({NORM})" in message
    assert "1 unexpected (language_model.model.layers.1.extra in model-" in message
    assert f"1 of the wrong shape ({SECOND_NORM} in model-" in message


def test_many_missing_tensors_are_counted_and_twenty_named(folder):
    edit_shard(folder, SCALE, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".experts." in name])
    message = complaint(folder)
    assert re.search(r"\d+ missing \(.* and \d+ more\)", message)
    assert message.count("language_model.") == 20


def test_a_weight_of_integers(folder):
    edit_shard(folder, NORM, lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int32)}))
    assert f"1 of a dtype that does not belong there ({NORM} in " in complaint(folder)


def test_packed_words_of_another_width(folder):
    edit_shard(folder, PACKED, lambda tensors: tensors.update({PACKED: tensors[PACKED].to(torch.int64)}))
    assert f"does not belong there ({PACKED} in " in complaint(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.0, -1.0])
@pytest.mark.parametrize("experts", ["packed", "dequantised"])
def test_scales_that_are_no_sizes(folder, value, experts):
    edit_shard(folder, SCALE, lambda tensors: tensors[SCALE].view(-1)[3:4].fill_(value))
    expected = f"{SCALE} in {shard_of(folder, SCALE).name} has scales that are NaN, infinite or negative"
    assert expected in complaint(folder, experts=experts)


@pytest.mark.parametrize("experts", ["packed", "dequantised"])
def test_a_matrix_that_says_it_has_another_shape(folder, experts):
    edit_shard(folder, SHAPE, lambda tensors: tensors.update({SHAPE: torch.tensor([64, 32], dtype=torch.int32)}))
    assert f"{SHAPE} in {shard_of(folder, SHAPE).name} says [64, 32] instead of [32, 64]" in complaint(
        folder, experts=experts
    )


def test_a_missing_index(folder):
    (folder / INDEX).unlink()
    assert f"but no {INDEX}" in complaint(folder)


def test_an_empty_folder(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    assert "holds no safetensors files" in complaint(folder)


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "cannot read" in complaint(folder)


@pytest.mark.parametrize(
    "place",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        "",
        3,
        None,
        "a\\b.safetensors",
        "pytorch_model.bin",
    ],
)
def test_an_index_that_points_outside_the_folder(folder, place):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][NORM] = place
    (folder / INDEX).write_text(json.dumps(index))
    assert f"{INDEX}: tensor {NORM} lies in {place!r}, which is no safetensors file of this folder" in complaint(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map(folder, weight_map):
    edit_json(folder / INDEX, weight_map=weight_map)
    assert f"{INDEX}: weight_map is missing" in complaint(folder)


def test_an_index_that_names_a_tensor_twice(folder):
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace(f'"{NORM}":', f'"{NORM}": "x", "{NORM}":', 1))
    assert f"names the key '{NORM}' twice" in complaint(folder)


def test_an_index_and_a_header_that_disagree(folder):
    index = json.loads((folder / INDEX).read_text())
    other = next(file for file in index["weight_map"].values() if file != index["weight_map"][NORM])
    index["weight_map"][NORM] = other
    (folder / INDEX).write_text(json.dumps(index))
    message = complaint(folder)
    assert NORM in message
    assert "the index" in message


def test_a_tensor_in_two_spellings(folder):
    double = NORM.replace("language_model.model.", "language_model.")
    edit_shard(folder, NORM, lambda tensors: tensors.update({double: tensors[NORM].clone()}))
    assert "is the same as" in complaint(folder)


def test_int4_tensors_without_a_word_in_the_config(folder):
    edit_json(folder / "config.json", **{"quantization_config": ..., "text_config.quantization_config": ...})
    assert re.search(
        r"weight_packed in model-\S+ is INT4, but config.json has no quantization_config", complaint(folder)
    )


def test_a_config_that_announces_int4_for_plain_tensors(pristine, folder, tmp_path):
    save_model(random_model(TINY), tmp_path / "plain")
    (tmp_path / "plain/config.json").write_bytes((pristine / "config.json").read_bytes())
    assert "announces INT4 experts, but no tensor is packed" in complaint(tmp_path / "plain")


def test_a_file_in_place_of_a_folder(folder):
    with pytest.raises(InputError, match="is a file; name the folder"):
        load_model(folder / "config.json")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        load_model(tmp_path / "absent")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x"])
def test_a_name_that_can_be_no_folder(name):
    with pytest.raises(InputError):
        load_model(name)


def test_weights_cannot_be_cast_to_integers(folder):
    with pytest.raises(InputError, match=r"cannot be stored as torch\.int8"):
        load_model(folder, dtype=torch.int8)


def test_a_hub_repository_without_a_network_or_a_cache(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no folder someone/something.*--local-dir FOLDER"):
        load_model("someone/something")


def test_a_hub_repository_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install k25\[hub\]"):
        load_model("someone/something")
