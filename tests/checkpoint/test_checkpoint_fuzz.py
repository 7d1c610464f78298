"""Whatever bytes and values a checkpoint holds, the answer is a model or a one-line error."""

import copy
import json

import torch
from checkpoint_made_here import TINY, random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from k25.checkpoint import load_model, save_model
from k25.checkpoint.config_json import read_config
from k25.checkpoint.config_write import config_json
from k25.checkpoint.safetensors_file import SafetensorsFile
from k25.errors import InputError

VALID = save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int32)})
CONFIG = config_json(TINY, "bfloat16", int4_experts=True)
RELAXED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(position=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(VALID)))
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(tmp_path, position, byte, cut):
    content = bytearray(VALID)
    content[position] = byte
    content = bytes(content[: cut or None])
    (tmp_path / "x.safetensors").write_bytes(content)
    message = refusal(lambda: SafetensorsFile(tmp_path / "x.safetensors").close())
    assert "\n" not in message
    if message:
        return
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        ours = {name: file.read(name) for name in file.tensors}
    try:
        theirs = load(content)
    except SafetensorError as error:
        raise AssertionError(f"we read what the library refuses: {error}") from error
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor.view(-1).view(torch.uint8), theirs[name].view(-1).view(torch.uint8))


def places(value, path=()):
    """Paths of all keys in nested objects."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def changed(changes):
    """The valid config with other values at some places."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes:
        inner = config
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[path[-1]] = value
    return config


def refusal(action):
    """The message of the InputError that `action` raises, or an empty one."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 5), max_size=3),
    st.dictionaries(st.sampled_from(["type", "factor", "weights", "x"]), st.integers(0, 9), max_size=2),
)


@RELAXED
@given(changes=st.lists(st.tuples(st.sampled_from(list(places(CONFIG))), VALUES), min_size=1, max_size=3))
def test_any_config_is_read_or_refused_in_one_line(tmp_path, changes):
    (tmp_path / "config.json").write_text(json.dumps(changed(changes)))
    message = refusal(lambda: read_config(tmp_path / "config.json"))
    assert "\n" not in message
    assert not message or "config.json" in message


@settings(RELAXED, max_examples=60)
@given(changes=st.lists(st.tuples(st.sampled_from(list(places(CONFIG))), VALUES), min_size=1, max_size=2))
def test_any_config_over_a_whole_checkpoint_gives_a_model_or_one_line(tmp_path, changes):
    folder = tmp_path / "checkpoint"
    if not folder.exists():
        save_model(random_model(TINY, torch.bfloat16), folder, quantise=True)
    (folder / "config.json").write_text(json.dumps(changed(changes)))
    assert "\n" not in refusal(lambda: load_model(folder))
