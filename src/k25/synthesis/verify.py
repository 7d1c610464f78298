"""The stages before the judge: structure, then an exact checker, a reference answer, or a majority of candidates."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from k25.agent import ArgumentError, ModelTurn
from k25.agent.schema import check_arguments
from k25.agent.tool import JsonObject, parse_arguments
from k25.chat import parse_messages, special_tokens
from k25.errors import InputError
from k25.synthesis.candidates import Candidate
from k25.synthesis.plan import VerifyConfig
from k25.tasks.scoring import final_answer, parse_number, same_number, same_words

_MARKERS = tuple(name for name in special_tokens.OFFSETS if name.startswith("<"))


@dataclass(frozen=True)
class Stage:
    """The verdict of one stage: `score` where it has one, `detail` in words."""

    name: str
    passed: bool
    score: float | None = None
    detail: str = ""

    def to_json(self) -> JsonObject:
        """For the records."""
        return {"stage": self.name, "passed": self.passed, "score": self.score, "detail": self.detail}


@dataclass
class Verified:
    """A candidate and the verdicts so far; after the first failed stage there are no more."""

    candidate: Candidate
    stages: list[Stage] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every stage so far is passed."""
        return all(stage.passed for stage in self.stages)

    @property
    def failure(self) -> Stage | None:
        """The stage that rejected it."""
        return next((stage for stage in self.stages if not stage.passed), None)

    def score(self, stage: str) -> float | None:
        """The score of a stage; None if there was no such stage."""
        return next((one.score for one in self.stages if one.name == stage), None)


def verify(candidates: Sequence[Candidate], config: VerifyConfig) -> list[Verified]:
    """All candidates of one prompt through all stages but the judge."""
    results = [Verified(candidate, [structure(candidate, config)]) for candidate in candidates]
    whole = [one for one in results if one.passed]
    prompt = candidates[0].prompt
    if prompt.exact is None and prompt.reference is None:
        _agree(whole, len(candidates), config.majority)
        return results
    for one in whole:
        one.stages.append(_checked(one.candidate, config.score))
    return results


def structure(candidate: Candidate, config: VerifyConfig) -> Stage:
    """Finished, well-formed, with valid calls, within the bounds."""
    problem = candidate.outcome.refused or _problem(candidate, config)
    return Stage("structure", problem is None, detail=problem or "")


def _problem(candidate: Candidate, config: VerifyConfig) -> str | None:
    trajectory = candidate.outcome.trajectory
    if any(turn.finish_reason == "length" for turn in candidate.turns):
        return "cut off at max_tokens"
    for turn in candidate.turns:
        if problem := _turn_problem(candidate, turn):
            return problem
    if trajectory.reason != "answered" and not (candidate.turns and not candidate.prompt.runs_tools):
        return f"not finished: {trajectory.detail}"
    try:
        parse_messages(candidate.messages)
    except InputError as error:
        return str(error)
    for what, text, (least, most) in (
        ("answer", candidate.text.strip(), config.answer_characters),
        ("reasoning", candidate.reasoning.strip(), config.reasoning_characters),
    ):
        if not least <= len(text) <= most:
            return f"{what} of {len(text)} characters, outside {least} to {most}"
    return None


def _turn_problem(candidate: Candidate, turn: ModelTurn) -> str | None:
    marker = next((name for name in _MARKERS if name in turn.content or name in turn.reasoning), None)
    if marker:
        return f"the markup {marker} stands in the text"
    tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in candidate.prompt.tools}
    for call in turn.tool_calls:
        name = call.name.strip().removeprefix("functions.")
        if name not in tools:
            return f"calls {call.name!r}, which is no declared tool"
        try:
            problems = check_arguments(parse_arguments(call.arguments), tools[name])
        except ArgumentError as error:
            problems = [str(error)]
        if problems:
            return f"calls {name} with wrong arguments: {problems[0]}"
    return None


def _checked(candidate: Candidate, least: float) -> Stage:
    exact, reference = candidate.prompt.exact, candidate.prompt.reference
    if exact is not None:
        score = exact.score(candidate.text)
        return Stage("exact", score >= least, score, f"score {score:g}, at least {least:g} is wanted")
    assert reference is not None, "without one there is a vote"
    same = max(same_words(reference, candidate.text), same_number(reference, candidate.text))
    return Stage("reference", bool(same), same, "the reference answer" if same else "not the reference answer")


def _agree(whole: list[Verified], asked: int, majority: float) -> None:
    """Self-consistency: the final answer that most candidates give, if enough of all that were asked give it."""
    if majority == 0:
        return
    votes = Counter(_vote(one.candidate.text) for one in whole)
    ranked = votes.most_common(2)
    tie = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    for one in whole:
        same = votes[_vote(one.candidate.text)]
        agreed = same >= 2 and same / asked >= majority and not tie and same == ranked[0][1]
        one.stages.append(Stage("majority", agreed, same / asked, f"{same} of {asked} candidates agree"))


def _vote(text: str) -> str:
    number = parse_number(text)
    return str(number) if number is not None else normalised(final_answer(text))


def normalised(text: str) -> str:
    """The text without differences of case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
