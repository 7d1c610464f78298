"""The exercises of the library `reasoning-gym` as tasks `rg/NAME`. Needs `pip install reasoning-gym`."""

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from k25.errors import InputError
from k25.tasks.exercise import check_difficulty
from k25.tasks.sample import Domain, JsonObject, Modality, Sample, generator
from k25.tasks.scoring import final_answer

PREFIX = "rg/"
# Their entries have no answer of their own, or they are made of other data sets.
_UNSUITABLE = {"boxnet", "composite", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


@dataclass
class ReasoningGymTask:
    """One data set of the library. Difficulty n sets every knob of its curriculum to level n - 1, or to its highest.

    Some of the library's own levels contradict its own bounds: `sample` then raises InputError.
    """

    dataset: str
    name: str
    hardest: int
    domain: Domain = "reasoning"
    modality: Modality = "text"
    twin: str | None = None

    def sample(self, seed: int, index: int, difficulty: int = 1) -> Sample:
        """Exercise number `index`. Raises InputError for a difficulty outside 1..hardest."""
        check_difficulty(self.name, difficulty, self.hardest)
        _, entry = self._entry(seed, index, difficulty)
        question, answer = str(entry["question"]), str(entry["answer"])
        return Sample(
            task=self.name,
            seed=seed,
            index=index,
            difficulty=difficulty,
            messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
            prompt_messages=1,
            answer=answer,
            gold=answer,
        )

    def score(self, sample: Sample, answer: str) -> float:
        """The library's own score for the answer that a reply names."""
        if answer == sample.answer:
            return 1.0
        dataset, entry = self._entry(sample.seed, sample.index, sample.difficulty)
        try:
            return min(1.0, max(0.0, float(dataset.score_answer(final_answer(answer), entry))))
        # Some of the library's checks raise on malformed answers, with errors of every kind.
        except Exception:
            return 0.0

    def call_tool(self, sample: Sample, name: str, arguments: JsonObject) -> str:  # noqa: ARG002 - no tool exists
        """An error text: these exercises declare no tools."""
        return f"error: there is no tool {name!r}"

    def _entry(self, seed: int, index: int, difficulty: int) -> tuple[Any, dict[str, Any]]:
        # The library seeds item i with seed + i, so that neighbouring seeds share items: each sample has its own.
        own_seed = generator(self.name, seed, index, difficulty).getrandbits(31)
        try:
            dataset = _dataset(self.dataset, own_seed, difficulty)
            return dataset, dataset[0]
        except (AssertionError, ValueError) as error:
            raise InputError(f"reasoning-gym cannot make {self.name} at difficulty {difficulty}: {error}") from None


def reasoning_gym_task(name: str) -> ReasoningGymTask:
    """The task `rg/NAME`. Raises InputError if the library or the name is missing."""
    known = reasoning_gym_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise InputError(f"there is no task {name!r} with a reference answer in reasoning-gym; {hint}")
    dataset = name.removeprefix(PREFIX)
    return ReasoningGymTask(dataset, name, _levels(dataset))


def reasoning_gym_names() -> list[str]:
    """All tasks `rg/NAME`. Raises InputError if the library is missing."""
    return [f"{PREFIX}{name}" for name in sorted(_factory().DATASETS) if name not in _UNSUITABLE]


def _factory() -> Any:
    try:
        return import_module("reasoning_gym.factory")
    except ImportError:
        raise InputError("tasks rg/NAME need the library reasoning-gym: pip install reasoning-gym") from None


@cache
def _levels(dataset: str) -> int:
    """Levels of the data set's finest knob; 1 without a curriculum."""
    factory = _factory()
    if not factory.has_curriculum(dataset):
        return 1
    return max((len(knob.levels) for knob in factory.create_curriculum(dataset).attributes.values()), default=1)


def _dataset(dataset: str, seed: int, difficulty: int) -> Any:
    factory = _factory()
    if not factory.has_curriculum(dataset):
        return factory.create_dataset(dataset, seed=seed, size=1)
    curriculum = factory.create_curriculum(dataset)
    curriculum.set_global_level(difficulty - 1)
    make, _ = factory.DATASETS[dataset]
    return make(curriculum.generate_configuration({"seed": seed, "size": 1}))
