"""What an update says of its rollouts, and which of them are kept for reading."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from k25.agent.tool import JsonObject
from k25.rl.advantages import Lessons
from k25.rl.pacing import versions_behind
from k25.rl.rollouts import Group, Rollout
from k25.train.metrics import Record
from k25.train.report import Curve

# The file of rollouts for reading, in the run's folder.
ROLLOUTS = "rollouts.jsonl"
# The part of the reward that says whether an answer is right, by the first of these names that there is.
_RIGHT = ("correct", "perf")
_WHOLE = 1 - 1e-9
_LONGEST_URL = 200


def rollout_record(groups: Sequence[Group], learnt: Lessons, version: int) -> Record:
    """Means over the rollouts of one update that did not fail; `version` is that of the weights in training."""
    rollouts = [rollout for group in groups for rollout in group if not rollout.failed]
    behind = [count for rollout in rollouts for count in versions_behind(rollout, version)]
    cut = [rollout.reason in ("length", "budget") for rollout in rollouts]
    return {
        "reward": _mean(rollout.reward for rollout in rollouts),
        "rewards": _means_of(rollout.rewards for rollout in rollouts),
        "reward_by_environment": _means(rollouts, lambda r: r.environment, lambda r: r.reward),
        "accuracy_by_domain": _means(rollouts, lambda r: r.domain, is_right),
        "accuracy_by_environment": _means(rollouts, lambda r: r.environment, is_right),
        "output_tokens": _mean(rollout.output_tokens for rollout in rollouts),
        "truncated": _mean(cut),
        "staleness": _mean(behind),
        "even_groups": _mean(len({rollout.reward for rollout in group}) == 1 for group in groups),
        "rollouts": len(rollouts),
        "dropped": dict(learnt.dropped),
        "dropped_tokens": dict(learnt.dropped_tokens),
        "environment_metrics": _means_of(rollout.metrics for rollout in rollouts),
    }


def is_right(rollout: Rollout) -> float:
    """1 for a rollout whose answer is wholly right."""
    part = next((rollout.rewards[name] for name in _RIGHT if name in rollout.rewards), rollout.reward)
    return float(part >= _WHOLE)


def readable(rollout: Rollout, step: int) -> JsonObject:
    """A rollout as a line of `rollouts.jsonl`; pictures are left out."""
    names = ("environment", "domain", "key", "number", "reward", "rewards", "metrics", "output_tokens", "reason")
    kept = {name: getattr(rollout, name) for name in names}
    return {"step": step, **kept, "failed": rollout.failed, "messages": [_light(each) for each in rollout.messages]}


def _light(message: JsonObject) -> JsonObject:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_light_part(part) for part in content]}


def _light_part(part: JsonObject) -> JsonObject:
    inner = part.get(str(part.get("type")))
    url = inner.get("url") if isinstance(inner, Mapping) else None
    if isinstance(inner, Mapping) and isinstance(url, str) and len(url) > _LONGEST_URL:
        return {**part, str(part["type"]): {**inner, "url": "left out"}}
    return part


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else 0.0


def _means(
    rollouts: Iterable[Rollout], name: Callable[[Rollout], str], value: Callable[[Rollout], float]
) -> dict[str, float]:
    return _means_of({name(rollout): value(rollout)} for rollout in rollouts)


def _means_of(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean by name, over the tables that have the name."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for table in tables:
        for name, value in table.items():
            found[name].append(value)
    return {name: fmean(values) for name, values in sorted(found.items())}


def _one(name: str) -> Callable[[Record], dict[str, float]]:
    return lambda record: {name: record[name]} if name in record else {}


def _several(*names: str) -> Callable[[Record], dict[str, float]]:
    return lambda record: {name: record[name] for name in names if name in record}


def _table(name: str) -> Callable[[Record], dict[str, float]]:
    return lambda record: record.get(name, {})


# Curves of the report.
CURVES: Sequence[Curve] = (
    ("Reward", _one("reward")),
    ("Reward by part", _table("rewards")),
    ("Accuracy by domain", _table("accuracy_by_domain")),
    ("Reward by environment", _table("reward_by_environment")),
    ("Generated tokens of a rollout", _one("output_tokens")),
    ("Shares", _several("truncated", "masked_share", "even_groups", "experts_differ")),
    ("Entropy (nats per token, estimated)", _one("entropy")),
    ("|log rho| between engine and trainer at zero updates", _several("mismatch_mean", "mismatch_max")),
    ("Versions that the weights behind a token are old", _one("staleness")),
    ("Seconds of a step", _several("rollout_seconds", "train_seconds")),
    ("Of the environments", _table("environment_metrics")),
    ("Servers in use", _table("engines")),
)
