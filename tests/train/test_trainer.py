"""Runs: resuming, stopping, refusing, freezing, and what a run leaves behind."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from PIL import Image
from rich.console import Console
from training_builders import PICTURES, SUMS, differing, recipe, steps, table, train, weights

from k25.checkpoint import load_model
from k25.cli.train_display import TrainingDisplay
from k25.errors import InputError
from k25.train.metrics import FILE_NAME
from k25.train.recipe import load_recipe
from k25.train.start import build_start, model_config
from k25.train.trainer import Interrupted, TrainingFailed

K25 = str(Path(sys.executable).parent / "k25")
# What depends on the clock.
TIMES = {"seconds", "tokens_per_second", "model_flops_utilisation", "data_seconds"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run without interruption."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe(), run)
    return run


def timeless(run):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in steps(run)]


def test_a_finished_run_leaves_everything_that_it_promises(finished):
    assert load_recipe(str(finished / "config.toml")) == recipe()
    assert [record["step"] for record in steps(finished)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-4", "step-6"]
    assert list((finished / "tensorboard").iterdir())
    assert (finished / "report.html").is_file()
    start = build_start(recipe(f"model.start_from={finished}", model={}))
    assert start.media is not None
    assert start.tokenizer.vocabulary_size == start.model.config.text.vocab_size


def test_a_run_stopped_by_ctrl_c_goes_on_with_the_losses_of_an_uninterrupted_one(finished, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped after step 3; run the same command again"):
        train(recipe(), run, stop_after=3)
    assert [record["step"] for record in steps(run)] == [1, 2, 3]
    assert not (run / "model").exists()
    with pytest.raises(Interrupted):
        train(recipe(), run, stop_after=5)
    train(recipe(), run)
    assert timeless(run) == timeless(finished)
    one, other = (load_model(folder / "model", dtype=torch.float32) for folder in (finished, run))
    assert not differing(weights(one), weights(other))


def test_data_workers_survive_ctrl_c_and_change_no_loss(finished, tmp_path):
    run = tmp_path / "run"
    with_workers = recipe("data.workers=1")
    with pytest.raises(Interrupted):
        train(with_workers, run, stop_after=2)
    train(with_workers, run)
    assert timeless(run) == timeless(finished)


def test_steps_after_the_last_checkpoint_are_done_again_and_written_once(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "step-6")
    with (run / FILE_NAME).open("a") as file:
        file.write('{"step": 7, "los')
    train(recipe(), run)
    assert timeless(run) == timeless(finished)
    assert all(json.loads(line) for line in (run / FILE_NAME).read_text().splitlines())


def test_training_a_finished_run_again_changes_nothing(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    train(recipe(), run)
    assert timeless(run) == timeless(finished)


def test_a_folder_of_another_recipe_is_refused_and_left_alone(finished):
    with pytest.raises(InputError, match=r"begun with a different recipe \(optimizer, steps\); give another --out"):
        train(recipe("steps=7", "optimizer.muon_lr=1e-3"), finished)
    assert load_recipe(str(finished / "config.toml")) == recipe()


def test_a_folder_in_which_another_process_trains_is_refused_and_left_alone(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)

    def written():
        files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}

    before = written()
    hold = (
        "import fcntl, sys; lock = open(sys.argv[1], 'wb'); fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; input()", str(run / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"run: another process is training in this folder"):
            train(recipe(), run)
        other.communicate("\n")
    assert written() == before
    train(recipe(), run)


def test_a_recipe_that_failed_before_its_first_step_can_be_mended_in_the_same_folder(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match="no tokenizer here"):
        train(recipe(f"tokenizer={tmp_path}/nowhere"), run)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="none of its first records can be used"):
        train(recipe(f"data.sources.files={{kind='text', path='{tmp_path}/empty.txt'}}"), run)
    train(recipe("steps=1", schedule={"stable": 1}), run)
    assert [record["step"] for record in steps(run)] == [1]
    assert load_recipe(str(run / "config.toml")).steps == 1


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_and_the_same_command_finishes(tmp_path):
    path, run = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(tomli_w.dumps(table(steps=100, schedule={"stable": 100})))
    command = [K25, "pretrain", str(path), "--out", str(run), "--set", "data.workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(steps(run)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, output + errors
    assert "run the same command again to continue" in " ".join(output.split())
    assert "Traceback" not in errors
    done = len(steps(run))
    assert (run / "checkpoints" / f"step-{done}").is_dir()
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert f"continuing after step {done} of 100" in again.stdout
    assert [record["step"] for record in steps(run)] == list(range(1, 101))


def test_updates_that_keep_failing_end_the_run_with_one_line(tmp_path):
    broken = recipe("optimizer.muon_lr=1e30", "optimizer.adamw_lr=1e30", "step.give_up_after=2", "schedule.warmup=0")
    with pytest.raises(
        TrainingFailed, match=r"step \d: 2 steps in a row were skipped \(not finite\); lower the"
    ) as end:
        train(broken, tmp_path / "run")
    assert "\n" not in str(end.value)
    assert [record["skipped"] for record in steps(tmp_path / "run")][-2:] == ["not finite", "not finite"]


def test_frozen_parts_stay_bit_identical(tmp_path):
    only_projector = recipe('model.trained=["projector"]', "steps=3")
    before = weights(build_start(only_projector).model)
    train(only_projector, tmp_path / "run")
    after = weights(load_model(tmp_path / "run" / "model", dtype=torch.float32))
    changed = differing(before, after)
    assert changed
    assert all(name.startswith("projector.") for name in changed)


def test_a_tower_alone_can_be_trained_on_a_mixture_with_text(tmp_path):
    tower = recipe('model.trained=["vision_tower", "projector"]', "steps=2", "data.sources.pictures.weight=0.01")
    assert len(train(tower, tmp_path / "run")) == 2


def test_a_vision_model_learns_from_text_alone(tmp_path):
    text_only = recipe("steps=3", data=table()["data"] | {"sources": {"sums": SUMS}})
    before = weights(build_start(text_only).model)
    train(text_only, tmp_path / "run")
    after = load_model(tmp_path / "run" / "model", dtype=torch.float32)
    assert after.config.vision is not None
    changed = differing(before, weights(after))
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_pictures_for_a_text_model_are_refused(tmp_path):
    blind = recipe("model.preset=moonlight-16b-a3b")
    with pytest.raises(InputError, match=r"vision"):
        model_config(blind.model)


def test_a_longer_context_keeps_the_weights_and_the_tokenizer(finished, tmp_path):
    stretched = recipe(
        "stage=long-context",
        "steps=2",
        model={
            "start_from": str(finished),
            "text": {
                "max_position_embeddings": 16_384,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 4096},
            },
        },
    )
    start = build_start(stretched)
    assert start.model.config.text.rope_scaling.factor == 4
    assert not differing(weights(start.model), weights(load_model(finished / "model", dtype=torch.float32)))
    train(stretched, tmp_path / "run")
    written = build_start(recipe(model={"start_from": str(tmp_path / "run")})).model.config.text
    assert (written.max_position_embeddings, written.rope_scaling.factor) == (16_384, 4)


def test_changes_that_do_not_fit_the_earlier_weights_are_refused(finished):
    wider = recipe(model={"start_from": str(finished), "text": {"intermediate_size": 56}})
    with pytest.raises(InputError, match=r"changes do not fit the weights of start_from"):
        build_start(wider)


def test_a_run_that_is_not_finished_is_no_start(tmp_path):
    with pytest.raises(Interrupted):
        train(recipe(), tmp_path / "run", stop_after=1)
    with pytest.raises(InputError, match=r"is not finished; resume it"):
        build_start(recipe(model={"start_from": str(tmp_path / "run")}))


def conversation(picture):
    return {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "Colour?"}],
            },
            {"role": "assistant", "content": "red"},
        ]
    }


def test_damaged_samples_are_skipped_counted_and_shown(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (28, 28), "red").save(data / "good.png")
    # Its header is sound, its pixels are cut off.
    (data / "cut.png").write_bytes((data / "good.png").read_bytes()[:60])
    (data / "text.png").write_text("no picture")
    lines = [json.dumps(conversation(name)) for name in ("good.png", "cut.png", "text.png")]
    (data / "all.jsonl").write_text("\n".join([*lines, "{no json", '{"messages": 3}']) + "\n")
    damaged = recipe(
        "steps=2",
        data=table()["data"] | {"sources": {"seen": {"kind": "conversations", "path": str(data)}, "sums": SUMS}},
    )
    records = train(damaged, tmp_path / "run")
    reasons = {reason: n for record in records for reason, n in record["samples_skipped"].items()}
    shown = io.StringIO()
    display = TrainingDisplay(Console(file=shown, width=200), "run", 2)
    for record in records:
        display.write(record)
    report = (tmp_path / "run" / "report.html").read_text()
    bad = [reason for reason in reasons if "not JSON" in reason or "image" in reason or "messages" in reason]
    assert len(bad) >= 3
    for reason in bad:
        assert reason in shown.getvalue()
        assert reason in report.replace("&#x27;", "'").replace("&quot;", '"')


def test_damaged_rows_of_parquet_are_counted(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    texts = [f"sentence number {number} about nothing" for number in range(30)]
    texts[3] = texts[7] = None
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    rows = {"kind": "text", "path": str(tmp_path / "rows.parquet")}
    records = train(recipe("steps=4", data=table()["data"] | {"sources": {"rows": rows}}), tmp_path / "run")
    counts = {reason: n for record in records for reason, n in record["samples_skipped"].items() if "no text" in reason}
    assert sum(counts.values()) >= 1


def test_an_empty_source_is_named(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    nothing = {"kind": "text", "path": str(tmp_path / "empty.jsonl")}
    with pytest.raises(InputError, match=r"source 'nothing'.*empty.jsonl"):
        train(recipe(data=table()["data"] | {"sources": {"nothing": nothing}}), tmp_path / "run")


def test_pictures_alone_train_every_part(tmp_path):
    captions = recipe("stage=vision", "steps=2", data=table()["data"] | {"sources": {"pictures": PICTURES}})
    before = weights(build_start(captions).model)
    train(captions, tmp_path / "run")
    changed = differing(before, weights(load_model(tmp_path / "run" / "model", dtype=torch.float32)))
    assert {name.split(".")[0] for name in changed} == {"decoder", "vision_tower", "projector"}
