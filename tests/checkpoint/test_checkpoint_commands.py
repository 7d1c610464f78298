"""`k25 inspect` and `k25 convert` as a user meets them."""

import json
import subprocess
import sys

import pytest
import torch
from checkpoint_made_here import TINY, fingerprints, random_model, stored

from k25.checkpoint import save_model
from k25.cli.convert import _size
from k25.cli.main import app, run
from k25.errors import InputError
from k25.model import parameter_counts


def k25(*arguments):
    app([str(argument) for argument in arguments], result_action="return_value")


@pytest.fixture
def checkpoint(tmp_path):
    save_model(random_model(TINY, torch.bfloat16), tmp_path / "checkpoint", quantise=True, max_shard_bytes=60_000)
    return tmp_path / "checkpoint"


def test_inspecting_the_release_needs_no_weights(capsys):
    k25("inspect", "k2.5", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters_total"] == 1_026_879_376_368
    assert shown["parameters_active"] == 32_861_500_928
    assert shown["tensors"] == 208_550
    assert shown["bytes"] == 595_148_192_736


def test_the_table_shows_exact_numbers_in_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    k25("inspect", "k2.5")
    lines = capsys.readouterr().out.splitlines()
    assert any("1,026,879,376,368" in line and "208,550" in line and "595,148,192,736" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_inspecting_a_folder_counts_what_is_in_it(checkpoint, capsys):
    k25("inspect", checkpoint, "--json", "--tensors")
    shown = json.loads(capsys.readouterr().out)
    tensors = stored(checkpoint)
    assert (shown["parameters_total"], shown["parameters_active"]) == parameter_counts(TINY)
    assert shown["tensors"] == len(tensors)
    assert shown["bytes"] == sum(tensor.nbytes for tensor in tensors.values()) == sum(shown["bytes_by_dtype"].values())
    assert {item["name"]: item["shape"] for item in shown["tensor_list"]} == {
        name: list(tensor.shape) for name, tensor in tensors.items()
    }
    assert all((checkpoint / item["file"]).exists() for item in shown["tensor_list"])


def test_the_folder_of_a_finished_run_stands_for_its_weights(checkpoint, tmp_path, capsys):
    k25("inspect", checkpoint, "--json")
    alone = json.loads(capsys.readouterr().out)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint.rename(tmp_path / "run" / "model")
    k25("inspect", tmp_path / "run", "--json")
    assert json.loads(capsys.readouterr().out)["tensors"] == alone["tensors"]
    k25("plan", tmp_path / "run", "--json")
    capsys.readouterr()
    k25("convert", tmp_path / "run", tmp_path / "converted", "--experts", "bf16", "--json")
    assert json.loads(capsys.readouterr().out)["parameters_total"] == alone["parameters_total"]


@pytest.mark.parametrize("command", [["inspect"], ["plan"], ["serve"], ["convert", "out"]])
def test_a_run_that_is_not_finished_has_no_weights_yet(command, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    name, *rest = command
    with pytest.raises(InputError, match="not finished"):
        k25(name, tmp_path / "run", *rest, *(["--port", "0"] if name == "serve" else []))


def test_inspecting_reads_headers_alone(checkpoint, capsys):
    """Every byte after the header may be anything."""
    for path in checkpoint.glob("*.safetensors"):
        content = path.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[:header] + b"\xff" * (len(content) - header))
    k25("inspect", checkpoint)
    assert "INT4 routed experts" in capsys.readouterr().out


def test_tensors_are_listed_with_their_places(checkpoint, capsys):
    k25("inspect", checkpoint, "--tensors")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mm_projector.proj.0.weight  BF16  [192, 192]  model-") for line in lines)


def test_converting_reports_what_was_written(checkpoint, tmp_path, capsys):
    k25("convert", checkpoint, tmp_path / "out", "--experts", "bf16", "--max-shard-size", "50KB", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == str(tmp_path / "out")
    assert shown["files"] == len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert shown["tensors"] == len(stored(tmp_path / "out"))
    assert shown["quantisation"] is None


def test_converting_back_and_forth_without_options_changes_nothing(checkpoint, tmp_path, capsys):
    k25("convert", checkpoint, tmp_path / "out")
    assert fingerprints(tmp_path / "out") == fingerprints(checkpoint)
    assert f"{len(stored(checkpoint))} tensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 gib", 3 * 2**29), ("500MB", 5 * 10**8), ("123", 123), ("2k", 2000)]
)
def test_sizes_are_read_as_written(text, size):
    assert _size(text) == size


WRONG = {
    "unknown preset": ["inspect", "k3"],
    "absent folder": ["inspect", "/absent/folder"],
    "bad size": ["convert", "CHECKPOINT", "OUT", "--max-shard-size", "5Q"],
    "no size": ["convert", "CHECKPOINT", "OUT", "--max-shard-size", "0GB"],
    "occupied": ["convert", "CHECKPOINT", "CHECKPOINT"],
    "absent parent": ["convert", "CHECKPOINT", "OUT/deeper/still"],
}


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked")
@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_and_exit_code_two(checkpoint, tmp_path, capsys, monkeypatch, arguments):
    places = {"CHECKPOINT": str(checkpoint), "OUT": str(tmp_path / "out")}
    words = [
        "k25",
        *(
            argument.replace("OUT", places["OUT"]) if "OUT" in argument else places.get(argument, argument)
            for argument in arguments
        ),
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as error:
        run()
    assert error.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message


@pytest.mark.slow
def test_the_program_refuses_a_truncated_file_without_a_traceback(checkpoint):
    (path, *_) = checkpoint.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    done = subprocess.run(
        [sys.executable, "-c", "from k25.cli.main import run; run()", "inspect", str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr
