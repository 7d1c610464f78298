"""Which verified answers become records: no duplicates, the best or most different of a prompt, balanced levels."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from k25.synthesis.plan import SelectConfig
from k25.synthesis.verify import Stage, Verified, normalised


def drop_duplicates(results: Iterable[Verified]) -> None:
    """Reject what says the same as an earlier result to the same prompt, but for case, width and white space."""
    seen: dict[str, str] = {}
    for one in results:
        if not one.passed:
            continue
        candidate = one.candidate
        key = normalised(json.dumps(list(candidate.prompt.messages))) + "\n" + _said(one)
        name = f"candidate {candidate.number} of {candidate.endpoint}"
        if (first := seen.setdefault(key, name)) is not name:
            one.stages.append(Stage("duplicate", False, detail=f"the same as {first}"))


def select(prompts: Sequence[Sequence[Verified]], config: SelectConfig) -> None:
    """Reject what is too much, of results in the order of their prompts."""
    drop_duplicates(one for results in prompts for one in results)
    ranks: dict[int, int] = {}
    for results in prompts:
        chosen = _chosen([one for one in results if one.passed], config)
        ranks |= {id(one): rank for rank, one in enumerate(chosen)}
        for one in results:
            if one.passed and id(one) not in ranks:
                one.stages.append(Stage("selection", False, detail=f"not among the {config.keep} of its prompt"))
    if config.balance:
        _balance([one for results in prompts for one in results if one.passed], ranks, config.balance)


def _chosen(passed: list[Verified], config: SelectConfig) -> list[Verified]:
    ranked = sorted(passed, key=_goodness, reverse=True)
    if config.by == "best" or len(ranked) <= config.keep:
        return ranked[: config.keep]
    chosen, rest = ranked[:1], ranked[1:]
    words = {id(one): frozenset(re.findall(r"\w+", _said(one))) for one in ranked}
    while len(chosen) < config.keep:
        farthest = max(rest, key=lambda one: min(_distance(words[id(one)], words[id(other)]) for other in chosen))
        chosen.append(farthest)
        rest.remove(farthest)
    return chosen


def _goodness(one: Verified) -> tuple[float, float, int]:
    """Grades first, then the checker's score, then brevity; `sorted` keeps the order of equals."""
    return one.score("judge") or 0.0, one.score("exact") or 0.0, -len(_said(one))


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard distance: the share of their words that they do not share."""
    together = one | other
    return 1 - len(one & other) / len(together) if together else 0.0


def _balance(kept: list[Verified], ranks: dict[int, int], ratio: float) -> None:
    """Second answers to a prompt go before first ones, worse grades before better ones."""
    groups: dict[str, dict[int, list[Verified]]] = defaultdict(lambda: defaultdict(list))
    for one in kept:
        prompt = one.candidate.prompt
        if prompt.difficulty is not None:
            groups[prompt.set_name][prompt.difficulty].append(one)
    for levels in groups.values():
        most = int(ratio * min(map(len, levels.values())))
        for level in levels.values():
            level.sort(key=lambda one: (-ranks[id(one)], *_goodness(one)[:2]), reverse=True)
            for one in level[most:]:
                one.stages.append(Stage("balance", False, detail="its difficulty has more than its share"))


def _said(one: Verified) -> str:
    """All that the model wrote, as one normalised text."""
    turns = one.candidate.turns
    calls = [f"{call.name} {call.arguments}" for turn in turns for call in turn.tool_calls]
    texts = [text for turn in turns for text in (turn.reasoning, turn.content) if text]
    return normalised("\n".join([*texts, *calls]))
