"""`k25 plan` as a user meets it: arguments in, tables or one JSON object and an exit status out."""

import json
from pathlib import Path
from typing import Any

import pytest

from k25.checkpoint.config_write import config_json
from k25.cli import main as cli
from k25.cli.plan import parse_memory
from k25.errors import InputError
from k25.model import preset

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["k25", "plan", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run()
    return int(exit_.value.code or 0)


def _json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = _run(monkeypatch, *arguments, "--json")
    return status, json.loads(capsys.readouterr().out)


def test_what_fits_exits_with_0(monkeypatch, capsys):
    status, report = _json(monkeypatch, capsys, "k2.5", "--devices", "8", "--memory", "141GB")
    assert status == 0
    assert report["fits"] is True
    assert report["weights"] == "int4"
    assert report["weight_bytes"] == 595_148_192_736
    assert report["cache_bytes_per_token"] == 70_272
    assert report["remedies"] == []


def test_what_does_not_fit_exits_with_1_and_says_what_to_do(monkeypatch, capsys):
    status, report = _json(monkeypatch, capsys, "k2.5", "--devices", "8", "--memory", "80GB")
    assert status == 1
    assert report["fits"] is False
    assert report["needed_bytes"] > report["memory_bytes"]
    assert report["fewest_devices"] == 16
    assert any("GGUF" in remedy["action"] and "240.0 GB" in remedy["outcome"] for remedy in report["remedies"])


def test_the_parts_of_a_device_add_up_to_what_it_needs(monkeypatch, capsys):
    for purpose in ("serve", "train"):
        _, report = _json(monkeypatch, capsys, "small", "--devices", "2", "--memory", "4GB", "--purpose", purpose)
        assert sum(report["per_device_bytes"].values()) == report["needed_bytes"]


def test_the_tables_end_in_a_verdict_and_remedies(monkeypatch, capsys):
    arguments = ["k2.5", "--purpose", "train", "--devices", "256", "--memory", "80GB", "--pipeline-parallel", "16"]
    assert _run(monkeypatch, *arguments) == 1
    out = capsys.readouterr().out
    assert "It does not fit: muonclip with zero1 sharding" in out
    assert "What to do, cheapest first" in out
    assert "experts, all-to-all" in out


def test_a_folder_is_planned_from_its_config_in_the_format_it_has(monkeypatch, capsys, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(config_json(preset("nano"), "bfloat16", int4_experts=True)))
    _, from_folder = _json(monkeypatch, capsys, str(tmp_path), "--devices", "1", "--memory", "1GB")
    _, from_preset = _json(monkeypatch, capsys, "nano", "--weights", "int4", "--devices", "1", "--memory", "1GB")
    assert from_folder["weights"] == "int4"
    assert from_folder["per_device_bytes"] == from_preset["per_device_bytes"]


def test_without_cuda_the_processor_is_the_one_device(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, report = _json(monkeypatch, capsys, "nano")
    assert status == 0
    assert report["devices"] == 1
    assert "no CUDA device" in report["devices_origin"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is neither a checkpoint folder nor a preset (nano, small,"),
        (["nano", "--devices", "1", "--memory", "80"], "--memory '80' is no size of memory"),
        (["nano", "--devices", "0", "--memory", "80GB"], "devices is 0"),
        (["nano", "--devices", "3", "--memory", "80GB", "--tensor-parallel", "2"], "3 devices per stage do not divide"),
        (["nano", "--optimizer", "adamw"], "--optimizer has no meaning for --purpose serve"),
        (["nano", "--purpose", "train", "--context", "10"], "--context has no meaning for --purpose train"),
        (["nano", "--devices", "1", "--memory", "1GB", "--context", "5000"], "context 5000 is longer than the model's"),
        (["nano", "--tensor-parallel", "0"], "tensor-parallel is 0"),
        (["nano", "--pipeline-parallel", "0"], "pipeline-parallel is 0"),
        (["nano", "--weights", "int3"], "--weights"),
        (["nano", "--devices", "many"], "--devices"),
    ],
)
def test_wrong_input_exits_with_2_and_names_it(monkeypatch, capsys, arguments: list[str], message: str):
    assert _run(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err + output.out


def test_a_folder_without_a_config_is_named(monkeypatch, capsys, tmp_path: Path):
    assert _run(monkeypatch, str(tmp_path)) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_folder_named_like_markup_is_printed_as_it_is(monkeypatch, capsys, tmp_path: Path):
    folder = tmp_path / "[bold][" / "]"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(preset("nano"), "bfloat16", int4_experts=False)))
    assert _run(monkeypatch, str(folder), "--devices", "1", "--memory", "1GB") == 0
    assert str(folder) in capsys.readouterr().out


def test_devices_without_cuda_need_their_memory_named(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _run(monkeypatch, "nano", "--devices", "4") == 2
    assert "such as --memory 80GB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GB", 80 * 10**9), ("80GiB", 80 * 2**30), ("1.5 tb", 1_500_000_000_000), ("512mib", 2**29), ("7B", 7)],
)
def test_memory_is_read_in_decimal_and_binary_units(text: str, size: int):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "80 Gigs", "0GB", "1e3GB", "80GBB", "0.1B", "80", "inf GB", "IB", "9" * 400 + "GB"]
)
def test_other_sizes_of_memory_are_refused(text: str):
    with pytest.raises(InputError, match="write it like 80GB"):
        parse_memory(text)
