"""`k25 eval` on a checkpoint, and what it says about wrong input."""

import json

import pytest

from k25.cli.eval import ExerciseOptions, ModelOptions, main
from k25.errors import InputError

FEW = ExerciseOptions(samples=2)
SHORT = ModelOptions(max_tokens=4, device="cpu")


def ask(source, *suite, exercise_options=FEW, model_options=SHORT, **options):
    main(
        str(source), suite=suite or ("add",), exercise_options=exercise_options, model_options=model_options, **options
    )


def test_results_and_answers_are_printed_as_one_json_object(nano_run, capsys):
    ask(nano_run, "add", "colour-grid", json_=True)
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["samples"] == 2
    (model,) = found["models"]
    assert [(result["task"], result["exercises"]) for result in model["results"]] == [("add", 2), ("colour-grid", 2)]
    assert [attempt["task"] for attempt in model["attempts"]] == ["add", "add", "colour-grid", "colour-grid"]
    assert all(attempt["completion_tokens"] <= 4 for attempt in model["attempts"])


def test_conversations_that_went_wrong_are_shown(nano_run, capsys):
    ask(nano_run, "add", show_failures=1)
    shown = capsys.readouterr().out
    assert "add, difficulty 1, exercise 0, attempt 1\nuser: " in shown
    assert "expected: " in shown


def test_a_model_equals_itself(nano_run, capsys):
    ask(nano_run, "add", "copy", against=str(nano_run / "model"), model_options=ModelOptions(plain=True, max_tokens=4))
    assert capsys.readouterr().out.count("+0.0%") == 2


def test_the_program_says_one_line_and_leaves_with_two(tmp_path, k25_here):
    done = k25_here("eval", tmp_path, "--suite", "texts")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: there is no suite or task 'texts'; did you mean text?"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("/no/such/folder", {}, "there is no folder /no/such/folder"),
        ("http://127.0.0.1:9", {}, "127.0.0.1:9"),
        ("http://", {}, "is no URL of a server"),
        ("ftp://here", {}, "is no URL of a server"),
        (".", {"show_failures": -1}, "--show-failures -1"),
        (".", {"exercise_options": ExerciseOptions(samples=0)}, "--samples 0"),
        (".", {"exercise_options": ExerciseOptions(difficulty=0)}, "--difficulty 0"),
        (".", {"exercise_options": ExerciseOptions(repeats=2)}, "--temperature"),
        (".", {"model_options": ModelOptions(temperature=-1)}, "--temperature -1"),
        (".", {"model_options": ModelOptions(plain=True, thinking=True)}, "exclude each other"),
        (".", {"model_options": ModelOptions(plain=True), "suite": "tool-lookup"}, "has tools"),
        ("http://127.0.0.1:9", {"model_options": ModelOptions(plain=True)}, "--plain is for checkpoints"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(source, options, message):
    suite = [options.pop("suite")] if "suite" in options else []
    with pytest.raises(InputError) as caught:
        ask(source, *suite, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unfinished_run_is_told_from_a_finished_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="not finished"):
        ask(tmp_path)
