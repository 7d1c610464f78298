"""Every task without pictures, over many exercises: answers, determinism, robustness, independent derivations."""

import contextlib
import io
import json
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k25.cli.data_tasks import markdown_table
from k25.errors import InputError
from k25.tasks import Exercise, get_task, plain_text, task_names, text_task

TEXT = [name for name in task_names() if get_task(name).modality == "text"]
WITHOUT_TOOLS = [name for name in TEXT if not get_task(name).sample(0, 0).tools]
DIGEST = """
import hashlib, json
from k25.tasks import get_task, task_names
names = [name for name in task_names() if get_task(name).modality == "text"]
samples = [get_task(name).sample(1, index).messages for name in names for index in range(5)]
print(hashlib.sha256(json.dumps(samples).encode()).hexdigest())
"""


def samples(name, count):
    task = get_task(name)
    return [task.sample(3, index, 1 + index % task.hardest) for index in range(count)]


@pytest.mark.parametrize("name", WITHOUT_TOOLS)
def test_reference_answers_score_one_and_wrong_ones_less(name):
    task = get_task(name)
    for sample in samples(name, 200):
        assert task.score(sample, sample.answer) == 1
        assert task.score(sample, f"Answer: {sample.answer}.") == 1
        for wrong in ("", "none of these", sample.answer + sample.answer + "x", f"{sample.answer} 0"):
            assert task.score(sample, wrong) < 1


@pytest.mark.parametrize("name", TEXT)
def test_a_sample_is_a_pure_function_and_its_gold_is_json(name):
    for sample in samples(name, 10):
        again = get_task(name).sample(sample.seed, sample.index, sample.difficulty)
        assert again == sample
        assert json.loads(json.dumps(sample.gold)) == sample.gold


def test_samples_are_equal_in_every_process():
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=240,
        )
        for hash_seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=200) | st.sampled_from(["1/0", "9" * 9999, "1e999", "(" * 300, "\\boxed{", "answer: -", "True+1"])
)
def test_scoring_takes_any_text(text):
    for name in TEXT:
        task = get_task(name)
        assert 0 <= task.score(task.sample(0, 0, task.hardest), text) <= 1


@pytest.mark.parametrize("name", ["add", "tool-calculator"])
@pytest.mark.parametrize("difficulty", [0, 99])
def test_a_difficulty_out_of_range_is_an_input_error(name, difficulty):
    with pytest.raises(InputError, match="difficulty"):
        get_task(name).sample(0, 0, difficulty)


NUMBERS = re.compile(r"\d+")
DERIVATIONS = {
    "add": lambda prompt, n: n[0] + n[1],
    "multiply": lambda prompt, n: n[0] * n[1],
    "subtract": lambda prompt, n: n[1] - n[0] if prompt.startswith("Subtract") else n[0] - n[1],
    "modular-add": lambda prompt, n: (n[0] + n[1]) % n[2],
    "compare": lambda prompt, n: "<" if n[0] < n[1] else "=" if n[0] == n[1] else ">",
    "copy": lambda prompt, n: prompt.split(": ")[1],
    "reverse": lambda prompt, n: prompt.split(": ")[1][::-1],
    "unique": lambda prompt, n: " ".join(dict.fromkeys(prompt.split(": ")[1].split())),
    "sort": lambda prompt, n: " ".join(map(str, sorted(n, reverse="largest first" in prompt or "falling" in prompt))),
    "count-letters": lambda prompt, n: (
        re.sub("[^a-z]", "", prompt[8:]).count(prompt[6])
        if prompt.startswith("count")
        else re.search(r"in (.*)\?", prompt)[1].count(re.search(r"does (.) occur", prompt)[1])
    ),
    "date-add": lambda prompt, n: _date_of(prompt) + timedelta(int(re.search(r"(\d+) days", prompt)[1])),
}


def _date_of(prompt):
    return date.fromisoformat(re.search(r"\d{4}-\d\d-\d\d", prompt)[0])


@pytest.mark.parametrize("name", DERIVATIONS)
def test_answers_follow_from_the_prompt_alone(name):
    for sample in samples(name, 200):
        prompt = sample.messages[0]["content"]
        assert sample.answer == str(DERIVATIONS[name](prompt, [int(number) for number in NUMBERS.findall(prompt)]))


def test_programs_print_their_answer():
    for sample in samples("program-output", 200):
        program = sample.messages[0]["content"].removeprefix("What does this program print?\n")
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(program, {})
        assert shown.getvalue().strip() == sample.answer


def test_close_brackets_leaves_nothing_open():
    for sample in samples("close-brackets", 200):
        text = re.search(r"[(){}\[\]<>]+", sample.messages[0]["content"])[0] + sample.answer
        while (shorter := re.sub(r"\(\)|\[\]|\{\}|<>", "", text)) != text:
            text = shorter
        assert not text


@pytest.mark.parametrize("cheat", ["7", "9", "7+2+0", "7.0+2+0.0", "True+7", "__import__('os')", "7+2+1j"])
def test_an_expression_must_use_exactly_the_given_numbers(cheat):
    task = get_task("write-expression")
    sample = next(sample for sample in samples("write-expression", 500) if sample.gold["numbers"] not in ([2, 7], [7]))
    assert task.score(sample, cheat) == 0


def test_a_thinking_twin_asks_the_same_and_shows_its_reasoning():
    plain, thinking = (get_task(name).sample(0, 4, 3) for name in ("add", "add-thinking"))
    assert plain.prompt == thinking.prompt
    assert plain.answer == thinking.answer
    assert thinking.messages[-1]["reasoning_content"]


@pytest.mark.parametrize("name", TEXT)
def test_plain_text_marks_its_answer(name):
    for sample in samples(name, 10):
        document = plain_text(sample)
        text = "".join(part for part in document.parts if isinstance(part, str))
        start, stop = document.answer
        assert text[start:stop] == document.parts[-1]
        assert text[:start].endswith("\n")
        assert text.endswith(sample.answer)


def test_the_documented_table_is_the_one_that_the_command_prints():
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    rows = [line for line in markdown_table().splitlines() if line.startswith(tuple(f"| {name} |" for name in TEXT))]
    assert len(rows) == len(TEXT)
    assert not [row for row in rows if row not in page]


def test_a_function_becomes_a_task():
    @text_task("double")
    def double(numbers, difficulty):
        number = numbers.randrange(10**difficulty)
        return Exercise(f"2*{number}=", str(2 * number))

    sample = double.sample(0, 0, 2)
    assert double.score(sample, sample.answer) == 1


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(InputError, match="lookup"):
        get_task("lookupp")
