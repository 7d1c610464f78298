"""Our reader and writer against the safetensors library, and against broken files."""

import re

import pytest
import torch
from checkpoint_made_here import raw_safetensors
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from k25.checkpoint.safetensors_file import DTYPE_NAMES, DTYPES, SafetensorsFile, write_safetensors
from k25.errors import InputError


def examples() -> dict[str, torch.Tensor]:
    """One tensor of every dtype, odd sizes so that nothing stays aligned, a scalar, an empty one."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, (3, 5), generator=generator).to(dtype).contiguous() for name, dtype in DTYPES.items()
    }
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "ünïcode": torch.ones(1)}


def write(path, tensors):
    header = {name: (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(path, header, tensors.items())


def equal(left, right):
    return left.dtype == right.dtype and torch.equal(
        left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8)
    )


def test_the_library_reads_what_we_write(tmp_path):
    write(tmp_path / "x.safetensors", examples())
    theirs = load_file(tmp_path / "x.safetensors")
    assert theirs.keys() == examples().keys()
    assert all(equal(theirs[name], tensor) for name, tensor in examples().items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_library_writes(tmp_path):
    save_file(examples(), tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        assert file.tensors.keys() == examples().keys()
        assert all(equal(file.read(name), tensor) for name, tensor in examples().items())


def test_preloaded_reads_are_the_same(tmp_path):
    write(tmp_path / "x.safetensors", examples())
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        file.preload()
        assert all(equal(file.read(name), tensor) for name, tensor in examples().items())


def test_part_of_a_tensor_is_read_in_place(tmp_path):
    save_file({"a": torch.arange(10.0)}, tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        whole = torch.zeros(6)
        file.read_into("a", whole[2:5], first=4)
    assert whole.tolist() == [0, 0, 4, 5, 6, 0]


def test_an_unfinished_file_never_has_the_name(tmp_path):
    def stops():
        yield "a", torch.ones(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x.safetensors", {"a": ("F32", (2,)), "b": ("F32", (2,))}, stops())
    assert not (tmp_path / "x.safetensors").exists()


F32_PAIR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "no header": (b"", b"", "do not hold the header"),
    "not JSON": (b"{nonsense}", b"", "not valid JSON"),
    "no object": (b"[1, 2]", b"", "not a JSON object"),
    "a name twice": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "'a' twice"),
    "unknown dtype": ({"a": F32_PAIR | {"dtype": "F7"}}, bytes(8), "tensor a: unknown dtype 'F7'"),
    "dtype is a list": ({"a": F32_PAIR | {"dtype": ["F32"]}}, bytes(8), "tensor a: unknown dtype"),
    "a name with a line break": ({"a\nb": F32_PAIR}, bytes(8), "cannot be printed"),
    "negative shape": ({"a": F32_PAIR | {"shape": [-2]}}, bytes(8), "tensor a: shape"),
    "fractional shape": ({"a": F32_PAIR | {"shape": [2.0]}}, bytes(8), "tensor a: shape"),
    "entry is no object": ({"a": 3}, bytes(8), "tensor a"),
    "shape and bytes disagree": ({"a": F32_PAIR | {"shape": [3]}}, bytes(12), "tensor a: shape"),
    "truncated": ({"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [8, 16]}}, bytes(12), "tensor b .* truncated"),
    "overlap": ({"a": F32_PAIR, "b": F32_PAIR | {"data_offsets": [4, 12]}}, bytes(12), "tensor b"),
    "gap": ({"a": F32_PAIR | {"data_offsets": [4, 12]}}, bytes(12), "tensor a"),
    "trailing bytes": ({"a": F32_PAIR}, bytes(9), "1 bytes that belong to no tensor"),
    "huge offsets": ({"a": F32_PAIR | {"shape": [2**61], "data_offsets": [0, 2**63]}}, bytes(8), "tensor a"),
}


@pytest.mark.parametrize(("header", "data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_a_one_line_error_that_names_it(tmp_path, header, data, message):
    path = raw_safetensors(tmp_path / "broken.safetensors", header, data)
    with pytest.raises(InputError, match=message) as error:
        SafetensorsFile(path)
    assert re.search("broken.safetensors", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, b"\xff" * 80])
def test_bytes_that_are_no_safetensors_file_are_refused_without_reading_them_all(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        SafetensorsFile(tmp_path / "x.safetensors")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*x\.safetensors"):
        SafetensorsFile(tmp_path / "x.safetensors")


def test_a_file_that_shrinks_while_open_is_named_with_its_tensor(tmp_path):
    save_file({"a": torch.ones(1000)}, tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        with (tmp_path / "x.safetensors").open("r+b") as handle:
            handle.truncate(500)
        with pytest.raises(InputError, match=r"x\.safetensors: tensor a ended"):
            file.read("a")


def test_an_unwritable_place_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_safetensors(tmp_path / "absent" / "x.safetensors", {"a": ("F32", (1,))}, [("a", torch.ones(1))])
