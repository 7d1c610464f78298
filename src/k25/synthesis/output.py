"""The files of a synthesis: records.jsonl, rejected.jsonl, summary.json. Each is whole or as it was before."""

import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import k25
from k25.errors import InputError
from k25.synthesis.summary import Summary
from k25.synthesis.verify import Verified

JsonObject = dict[str, Any]


def write_outputs(folder: Path, prompts: Sequence[Sequence[Verified]], summary: Summary) -> None:
    """Write everything. Raises InputError if the folder cannot take it."""
    results = [one for results in prompts for one in results]
    try:
        _replace(folder / "records.jsonl", (_line(record(one)) for one in results if one.passed))
        _replace(folder / "rejected.jsonl", (_line(rejection(one)) for one in results if not one.passed))
        _replace(folder / "summary.json", [json.dumps(summary.to_json(), indent=1) + "\n"])
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); make room, then run again") from None


def record(one: Verified) -> JsonObject:
    """A conversation for fine-tuning: `messages`, `tools` where there are any, `provenance`."""
    tools = one.candidate.prompt.tools
    return {
        "messages": one.candidate.messages,
        **({"tools": list(tools)} if tools else {}),
        "provenance": provenance(one),
    }


def rejection(one: Verified) -> JsonObject:
    """What was rejected as it came, with the stage and its reason first."""
    failure = one.failure
    assert failure is not None, "only failures are rejected"
    messages = [*one.candidate.prompt.messages, *one.candidate.answer_messages]
    return {
        "stage": failure.name,
        "reason": failure.detail,
        "final_answer": one.candidate.text,
        "messages": messages,
        "provenance": provenance(one),
    }


def provenance(one: Verified) -> JsonObject:
    """Where an answer comes from and why it is trusted."""
    candidate = one.candidate
    used = candidate.outcome.trajectory
    return {
        "model": candidate.config.model,
        "endpoint": _without_login(candidate.config.url),
        "sampling": candidate.config.options,
        "prompt": candidate.prompt.source,
        "instruction": candidate.prompt.instruction,
        "candidate": candidate.number,
        "stages": [stage.to_json() for stage in one.stages],
        "time": datetime.fromtimestamp(candidate.outcome.time, UTC).isoformat(timespec="seconds"),
        "seconds": round(candidate.seconds, 3),
        "model_calls": len(candidate.turns),
        "tokens": used.usage.to_json(),
        "cost": used.cost,
        "k25": k25.__version__,
    }


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _line(value: JsonObject) -> str:
    # Lone surrogates, which JSON can carry and UTF-8 cannot, stay escaped.
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value)
    return text + "\n"


def _replace(path: Path, lines: Iterable[str]) -> None:
    aside = path.with_name(f".{path.name}.new")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
