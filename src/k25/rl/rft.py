"""Rejection-sampling fine-tuning: the good rollouts of a run as records for `k25 sft`.

Kimi K2.5 report, arXiv 2602.02276, section 4.4: trajectories of reinforcement learning are filtered into data for
fine-tuning. Rollouts come as the lines of a run's `rollouts.jsonl` (whose recipe says how many groups are kept:
`rollouts.shown`); records have the form that `k25 data synthesize` writes. Each rollout that is left out is counted
under one reason.
"""

import json
import os
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import k25
from k25.agent.tool import JsonObject
from k25.chat import parse_messages, parse_tools, rewrite_tool_call_ids, special_tokens
from k25.errors import InputError
from k25.rl.metrics import ROLLOUTS
from k25.rl.registry import environment

_MARKERS = tuple(name for name in special_tokens.OFFSETS if name.startswith("<"))
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "environment": str,
    "key": str,
    "reward": (int, float),
    "messages": list,
    "output_tokens": int,
    "reason": str,
}


@dataclass(frozen=True)
class RftConfig:
    """Which rollouts become records.

    Attributes:
        reward: the least reward.
        keep: the most per prompt: the best rewards first, of equals the shortest.
        longest: the most tokens that the policy chose; None for any number.
    """

    reward: float = 1.0
    keep: int = 1
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.keep < 1 or (self.longest is not None and self.longest < 1):
            raise InputError("RFT keeps at least 1 rollout per prompt, of at least 1 token")


@dataclass(frozen=True)
class Rft:
    """The records, and how many rollouts were left out by reason."""

    records: list[JsonObject]
    left_out: Counter[str]


def rft(
    rollouts: Iterable[Mapping[str, Any]],
    config: RftConfig = RftConfig(),
    tools: Mapping[str, Sequence[JsonObject]] | None = None,
) -> Rft:
    """Filter rollouts into records, in the order in which their prompts came first.

    Args:
        rollouts: lines of `rollouts.jsonl`.
        config: which are good enough.
        tools: declared tools by environment, for the records of those that call any.
    """
    left_out: Counter[str] = Counter()
    by_prompt: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for rollout in rollouts:
        problem = _problem(rollout, config, tools or {})
        if problem:
            left_out[problem] += 1
        else:
            by_prompt.setdefault((rollout["environment"], rollout["key"]), []).append(rollout)
    records, said = [], set()
    for group in by_prompt.values():
        kept = 0
        for rollout in sorted(group, key=lambda one: (-one["reward"], one["output_tokens"])):
            words = _normalised(rollout["messages"])
            if words in said:
                left_out["says the same as another"] += 1
            elif kept == config.keep:
                left_out[f"not among the best {config.keep} of its prompt"] += 1
            else:
                said.add(words)
                kept += 1
                records.append(_record(rollout, (tools or {}).get(rollout["environment"], ())))
    return Rft(records, left_out)


def read_rollouts(run: Path) -> Iterator[JsonObject]:
    """The rollouts that a run kept for reading. Raises InputError where there are none or a line is damaged.

    A last line without its end is skipped: the run may be writing it.
    """
    path = run / ROLLOUTS
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                yield _parsed(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a run of k25 rl") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; give the folder of a run of k25 rl") from None


def tools_of(run: Path) -> dict[str, list[JsonObject]]:
    """The tools that a run's environments declare, by environment, from its `config.toml`.

    Raises InputError for a configuration that cannot be read and environments that cannot be made.
    """
    path = run / "config.toml"
    try:
        tables = tomllib.loads(path.read_text("utf-8")).get("environments", [])
        named = [(table["name"], table.get("options")) for table in tables]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the folder of a run of k25 rl") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is no recipe of k25 rl ({error}); give the folder of a run of k25 rl") from None
    made = [environment(name, options) for name, options in named]
    return {one.name: one.toolset(one.draw(0, 0)).definitions() for one in made}


def write_records(records: Iterable[JsonObject], path: Path) -> None:
    """Write JSON lines; the file is whole or as it was. Raises InputError if it cannot be written."""
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def _parsed(line: str, place: str) -> JsonObject:
    try:
        rollout = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: is not JSON; remove the line") from None
    fields = rollout if isinstance(rollout, dict) else {}
    for name, kind in _FIELDS.items():
        if not isinstance(fields.get(name), kind):
            raise InputError(f"{place}: {name} is missing or of another kind; remove the line")
    return rollout


def _problem(rollout: Mapping[str, Any], config: RftConfig, tools: Mapping[str, Sequence[JsonObject]]) -> str:
    if rollout.get("failed"):
        return "failed"
    if rollout["reason"] != "answered":
        return f"not finished: {rollout['reason']}"
    if rollout["reward"] < config.reward:
        return f"reward below {config.reward:g}"
    if config.longest is not None and rollout["output_tokens"] > config.longest:
        return f"more than {config.longest} tokens"
    return _unfit(rollout["messages"], tools.get(rollout["environment"], ()))


def _unfit(messages: list[JsonObject], tools: Sequence[JsonObject]) -> str:
    """Why `k25 sft` could not learn a conversation as it was."""
    try:
        parse_messages(rewrite_tool_call_ids(messages))
        parse_tools(list(tools))
    except InputError:
        return "no conversation in the chat form"
    if messages[-1]["role"] != "assistant":
        return "does not end with an answer"
    declared = {tool["function"]["name"] for tool in tools}
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(part["type"] != "text" for part in content):
            return "shows pictures, which a run does not keep"
        if message["role"] == "assistant":
            if any(marker in f"{content}{message.get('reasoning_content')}" for marker in _MARKERS):
                return "markup stands in its text"
            if any(call["function"]["name"] not in declared for call in message.get("tool_calls") or ()):
                return "calls a tool that is not declared"
    return ""


def _record(rollout: Mapping[str, Any], tools: Sequence[JsonObject]) -> JsonObject:
    names = ("environment", "domain", "key", "number", "step", "reward", "rewards", "output_tokens")
    origin = {name: rollout[name] for name in names if name in rollout}
    return {
        "messages": rewrite_tool_call_ids(rollout["messages"]),
        **({"tools": list(tools)} if tools else {}),
        "provenance": {"prompt": {"kind": "rollout"}, **origin, "k25": k25.__version__},
    }


def _normalised(messages: list[JsonObject]) -> str:
    """What was said, without differences of case, width and white space, and of ids of calls."""
    return json.dumps(_plain(rewrite_tool_call_ids(messages)), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
