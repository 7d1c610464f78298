"""A dry run says what a recipe means, allocates nothing and refuses what contradicts itself."""

import io
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from training_builders import SUMS, recipe, table

from k25.cli.dry_run import DryRunOptions, dry_run
from k25.errors import InputError
from k25.model import parameter_counts, preset
from k25.train.recipe import load_recipe
from k25.train.start import build_start

K25 = str(Path(sys.executable).parent / "k25")
RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = [
    f"{path.parent.name}/{path.stem}"
    for path in sorted(RECIPES.glob("*/*.toml"))
    if tomllib.loads(path.read_text()).get("stage", "rl") != "rl"
]

BLIND = ["model.preset=moonlight-16b-a3b", "model.vision={}", 'model.trained=["projector"]', "tokenizer=nowhere"]


def shown(of, **options):
    text = io.StringIO()
    dry_run(of, DryRunOptions(dry_run=True, **options), Console(file=text, width=200))
    return text.getvalue()


def cells(text, first):
    """The cells of the row that begins with `first`."""
    (row,) = [line for line in text.splitlines() if re.match(rf"│ {re.escape(first)} +│", line)]
    return [cell.strip() for cell in row.strip("│\n").split("│")]


def test_counts_are_those_of_the_network_that_would_be_trained():
    tiny = recipe('model.trained=["vision_tower", "projector"]')
    model = build_start(tiny).model
    text = shown(tiny)
    learnt = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("decoder."))
    frozen = sum(p.numel() for p in model.decoder.parameters())
    assert cells(text, "trained")[3] == f"{learnt:,}"
    assert cells(text, "frozen")[3] == f"{frozen:,}"
    total, active = parameter_counts(model.config)
    assert cells(text, "parameters")[1] == f"{total:,}"
    assert cells(text, "active per text token")[1] == f"{active:,}"


def test_tokens_schedule_and_shares_are_worked_out():
    sources = {"a": SUMS | {"weight": [[0, 1.0], [1536, 0.0]]}, "b": SUMS | {"weight": [[0, 0.0], [1536, 1.0]]}}
    text = shown(recipe(data=table()["data"] | {"sources": sources}))
    assert cells(text, "tokens per step")[1] == "256 (2 streams of 128)"
    assert cells(text, "tokens in all")[1] == "1,536"
    assert cells(text, "a")[1:4] == ["100.0%", "50.0%", "0.1%"]
    assert "│    1 │    256 │       0.500 │ 0.002 │ 0.0015 │" in text


def test_missing_data_start_and_tokenizer_are_said_and_stop_nothing(tmp_path):
    there = tmp_path / "there.jsonl"
    there.write_text('{"text": "a"}\n')
    sources = {"here": {"kind": "text", "path": str(there)}, "away": {"kind": "text", "path": "no/such/file.jsonl"}}
    data = table()["data"] | {"sources": sources}
    text = shown(recipe("model.start_from=no/such/run", "tokenizer=no/such/tokenizer", data=data))
    assert "Not here yet: no/such/run" in text
    assert "missing: no/such/tokenizer" in text
    assert cells(text, "away")[4] == "missing: no/such/file.jsonl"
    assert cells(text, "here")[4].startswith("1 files, 14 B")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sequence_tokens=8192"], "data.sequence_tokens: documents of 8,192 tokens exceed"),
        (["parallel.expert=3"], "parallel.expert: 4 experts cannot be divided among 3 ranks"),
        (["steps=7"], "schedule: warmup, stable and decay last 6 steps, the run 7"),
        (["data.sources.sums.tasks=adds"], "'adds'"),
        (["data.sources.sums.difficulty=99"], "source 'sums': difficulty"),
        (["data.sources.sums.weight=0", "data.sources.pictures.weight=0"], "data.sources: all weights are 0"),
        (["model.preset=moonlight-16b-a3b", "model.vision={}"], "tokenizer: a made-up tokenizer has 256 to"),
        (BLIND, "model.trained: the network has none of projector"),
        ([*BLIND, "model.vision.patch_size=7"], "model.vision: moonlight-16b-a3b has no vision tower"),
    ],
)
def test_what_contradicts_itself_is_refused(overrides, message):
    with pytest.raises(InputError) as error:
        shown(recipe(*overrides))
    assert message in str(error.value)


def test_streams_must_divide_among_the_devices():
    with pytest.raises(InputError, match=r"2 streams per step cannot be divided among 4 ranks"):
        shown(recipe(), devices=4)
    assert "It fits in 85.9 GB" in shown(recipe(), devices=2)


def test_devices_without_a_dry_run_are_refused():
    with pytest.raises(InputError, match=r"--devices and --memory say something about a --dry-run only"):
        DryRunOptions(devices=8)


def test_what_does_not_fit_on_the_named_devices_exits_with_one():
    with pytest.raises(SystemExit) as end:
        shown(recipe(), devices=2, memory="1MB")
    assert end.value.code == 1


@pytest.mark.parametrize("name", [name for name in STAGES if not name.startswith("k2.5/")])
def test_every_recipe_that_comes_with_k25_passes(name):
    assert "Optimiser groups" in shown(load_recipe(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STAGES if name.startswith("k2.5/")])
def test_recipes_of_the_release_pass_without_its_data_and_weights(name):
    text = shown(load_recipe(name))
    architecture = "kimi-vl-a3b" if name == "k2.5/vision" else "k2.5"
    total, _ = parameter_counts(preset(architecture))
    assert cells(text, "parameters")[1] == f"{total:,}"
    assert "missing: data/" in text


@pytest.mark.slow
def test_a_trillion_parameters_are_planned_in_little_memory():
    command = [K25, "pretrain", "k2.5/joint", "--dry-run", "--devices", "1024", "--memory", "80GiB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "It fits in 85.9 GB." in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 2e9
