"""Calibrating a judge from answers whose worth is known: people's grades, or an exact checker's.

The file has a JSON object per line:

    {"prompt": "Name a prime.", "answer": "7", "worth": 1.0}

`messages` may stand in `prompt`'s place, and a good answer under `reference`; `worth` goes from 0 to 1. Every set of
rubrics grades every answer, and gets a calibration of its own. How well calibrations do is measured on prompts that
they were not fitted to, in turns; the ones that are kept are fitted to all.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k25.agent.tool import JsonObject
from k25.chat import parse_messages
from k25.errors import InputError
from k25.rl.judge import Judge, Submission
from k25.rl.judge_calibration import Calibration, fit, mean_error
from k25.rl.judge_question import Ask, JudgeError

# Prompts are held out in so many turns.
FOLDS = 5
_KEYS = {"prompt", "messages", "answer", "worth", "reference"}


@dataclass(frozen=True)
class Labelled:
    """An answer and its worth, from 0 to 1."""

    submission: Submission
    worth: float


@dataclass(frozen=True)
class SetReport:
    """What calibration does for one set of rubrics.

    Attributes:
        calibration: fitted to all answers.
        answers: that the set has graded.
        error: mean absolute difference between score and worth, without calibration.
        calibrated: the same with calibrations of other prompts; None where all answers have one prompt.
    """

    calibration: Calibration
    answers: int
    error: float
    calibrated: float | None


@dataclass(frozen=True)
class CalibrationReport:
    """Reports by rubric set, answers without a verdict by reason, and the tokens that the judge took."""

    sets: Mapping[str, SetReport]
    failed: Mapping[str, int]
    tokens: int

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """For `Judge` and `save_calibrations`."""
        return {name: one.calibration for name, one in self.sets.items()}


def read_labelled(path: Path) -> list[Labelled]:
    """The answers of a file. Raises InputError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file of graded answers") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_labelled(json.loads(line)))
            except (ValueError, RecursionError, InputError) as error:
                raise InputError(f"{path}, line {number}: {error}") from None
    if not found:
        raise InputError(f"{path}: is empty; each line is a JSON object with prompt, answer and worth")
    return found


async def calibrate(
    judge: Judge,
    labelled: Sequence[Labelled],
    asks_for: Callable[[str], Ask],
    *,
    concurrency: int = 16,
    graded: Callable[[], None] = lambda: None,
) -> CalibrationReport:
    """Let the judge grade all answers, and fit its sets of rubrics to their worth.

    Args:
        judge: its own calibrations and draws play no part.
        labelled: the answers.
        asks_for: who is asked, by the name of a conversation.
        concurrency: answers graded at the same time.
        graded: called after each.

    Raises InputError where not one answer got a verdict.
    """
    plain = replace(judge, draws=len(judge.sets), calibrations={})
    slots = asyncio.Semaphore(concurrency)
    scores: list[Mapping[str, float] | None] = [None] * len(labelled)
    failed: Counter[str] = Counter()
    tokens = 0

    async def grade(place: int) -> None:
        nonlocal tokens
        async with slots:
            try:
                judgement = await plain.grade(labelled[place].submission, asks_for(f"calibration/{place}"))
            except JudgeError as error:
                failed[str(error)] += 1
            else:
                scores[place] = judgement.by_set
                tokens += judgement.tokens
            graded()

    async with asyncio.TaskGroup() as group:
        for place in range(len(labelled)):
            group.create_task(grade(place))
    seen = [(one, of_sets) for one, of_sets in zip(labelled, scores, strict=True) if of_sets is not None]
    if not seen:
        raise InputError(f"no answer got a verdict; {failed.most_common(1)[0][0]}")
    keys = [one.submission.key for one, _ in seen]
    sets = {
        rubrics.name: _report(keys, [(of_sets[rubrics.name], one.worth) for one, of_sets in seen])
        for rubrics in plain.sets
    }
    return CalibrationReport(sets, failed, tokens)


def _report(keys: Sequence[str], pairs: Sequence[tuple[float, float]]) -> SetReport:
    distinct = list(dict.fromkeys(keys))
    fold_of = {key: place % FOLDS for place, key in enumerate(distinct)}
    errors = []
    for fold in range(min(FOLDS, len(distinct)) if len(distinct) > 1 else 0):
        rest = fit(pair for key, pair in zip(keys, pairs, strict=True) if fold_of[key] != fold)
        errors += [mean_error([pair], rest) for key, pair in zip(keys, pairs, strict=True) if fold_of[key] == fold]
    return SetReport(fit(pairs), len(pairs), mean_error(pairs), sum(errors) / len(errors) if errors else None)


def _labelled(record: Any) -> Labelled:
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if unknown := record.keys() - _KEYS:
        raise ValueError(f"unknown key {min(unknown)}; the keys are {', '.join(sorted(_KEYS))}")
    answer, worth, reference = (record.get(name) for name in ("answer", "worth", "reference"))
    if not isinstance(answer, str) or not isinstance(reference, str | None):
        raise ValueError("answer, and reference where there is one, are texts")
    if isinstance(worth, bool) or not isinstance(worth, int | float) or not 0 <= worth <= 1:
        raise ValueError(f"worth is {json.dumps(worth)}; give a number from 0 to 1")
    prompt = _prompt(record)
    return Labelled(Submission(json.dumps(prompt), prompt, answer, reference), float(worth))


def _prompt(record: JsonObject) -> list[JsonObject]:
    text, messages = record.get("prompt"), record.get("messages")
    if (text is None) == (messages is None):
        raise ValueError("give either prompt, a text, or messages")
    if messages is None and not isinstance(text, str):
        raise ValueError("prompt is no text; a conversation stands under messages")
    given: list[JsonObject] = [{"role": "user", "content": text}] if messages is None else messages
    parse_messages(given)
    return given
