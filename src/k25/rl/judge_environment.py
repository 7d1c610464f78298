"""Judged environments: any environment with a judge's score as one more part of its reward.

The judge is a frozen model in a role of its own, or an agent with tools whose rollout runs inside the judged one
(Kimi K2.5 report, arXiv 2602.02276, appendix D: agent-as-judge).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from k25.agent import Toolset
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.judge import Judge, Submission, pictures_of
from k25.rl.judge_calibration import load_calibrations
from k25.rl.judge_question import Ask, JudgeError, Reply, asks
from k25.rl.judge_rubrics import GENERAL, rubric_sets
from k25.rl.scope import POLICY, Scope
from k25.rl.wrapped import WrappedEnvironment


class JudgingAgent(Environment):
    """A judge with tools. Its examples are questions to it; its verdict is read from its answer, its reward is empty.

    tools: makes the toolset of one judging; what it runs on was written by the policy, so tools that run code need a
        sandbox.
    """

    name = "judge"

    def __init__(self, tools: Callable[[], Toolset], *, role: str = "judge", max_steps: int = 8) -> None:
        self._tools, self._role, self.max_steps = tools, _frozen(role), max_steps

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """One agent with the role's frozen model."""
        trajectory = await scope.run(
            example.messages,
            self._tools(),
            max_steps=self.max_steps,
            role=self._role,
            name=self.name,
            media=example.media,
            answer_at_end=True,
        )
        return Outcome({}, trajectory)

    def asks(self, scope: Scope, example: Example) -> Ask:
        """Puts questions about a rollout of `example` to the agent."""

        async def ask(messages: Sequence[JsonObject]) -> Reply:
            outcome = await scope.sub_rollout(self, replace(example, messages=tuple(messages)))
            trajectory = outcome.trajectory
            if trajectory.reason != "answered":
                raise JudgeError(f"the judging agent did not answer: {trajectory.reason}")
            return Reply(trajectory.text, trajectory.usage.total_tokens)

        return ask


class JudgedEnvironment(WrappedEnvironment):
    """An environment whose final answers a judge grades too: the part `judge` of the reward.

    A rollout without an answer is not shown to the judge and earns 0 there. A judge that fails raises `JudgeError`, for
    which the rollout manager drops the rollout and counts the reason.

    Args:
        environment: the environment, or its name.
        options: of the environment, where it is named.
        judge: the judge; otherwise it is made of the next three.
        rubrics: sets as `rubric_sets` reads them; the general ones by default.
        draws: how many sets grade an answer.
        calibration: file of calibrations.
        role: the judge's model; it must not be the policy.
        agent: an agent that judges, in place of the model alone.
        reference: finds a good answer in an example, to show the judge.
        sees_pictures: whether the judge's model is shown the prompt's pictures.
    """

    def __init__(
        self,
        environment: Environment | str,
        *,
        options: Mapping[str, Any] | None = None,
        judge: Judge | None = None,
        rubrics: Mapping[str, Mapping[str, Any]] | None = None,
        draws: int = 1,
        calibration: str | Path | None = None,
        role: str = "judge",
        agent: JudgingAgent | None = None,
        reference: Callable[[Example], str | None] = lambda _: None,
        sees_pictures: bool = False,
    ) -> None:
        super().__init__(environment, options)
        self._agent, self._role = agent, _frozen(role)
        self._reference, self._sees_pictures = reference, sees_pictures
        self._judge = judge or Judge(
            sets=GENERAL if rubrics is None else rubric_sets(rubrics),
            draws=draws,
            calibrations=load_calibrations(Path(calibration)) if calibration else {},
        )

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """The environment's own rollout, then the judge."""
        outcome = await self.inner.rollout(example, scope)
        if outcome.trajectory.reason != "answered" or not outcome.trajectory.text.strip():
            return replace(outcome, rewards={**outcome.rewards, "judge": 0.0})
        pictures = pictures_of(example.messages) if self._sees_pictures else ()
        submission = Submission(
            example.key, example.messages, outcome.trajectory.text, self._reference(example), pictures
        )
        judgement = await self._judge.grade(submission, self._ask(example, scope), scope.seed)
        grades = {f"judge/{name}": float(grade) for name, grade in judgement.grades.items()}
        return replace(
            outcome,
            rewards={**outcome.rewards, "judge": judgement.score},
            metrics={**outcome.metrics, **grades, "judge_tokens": float(judgement.tokens)},
        )

    def _ask(self, example: Example, scope: Scope) -> Ask:
        if self._agent is not None:
            return self._agent.asks(scope, example)
        media = example.media if self._sees_pictures else ()
        return asks(scope.client(self._role, media), f"{scope.name}/judge")


def _frozen(role: str) -> str:
    if role == POLICY:
        raise InputError("the judge cannot be the policy that is trained: give it a role of its own, such as 'judge'")
    return role
