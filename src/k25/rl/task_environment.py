"""The tasks of `k25.tasks` as environments: text, pictures, clips and tools with exact answers."""

from collections.abc import Mapping, Sequence

from k25.agent import Toolset, Trajectory
from k25.errors import InputError
from k25.evaluation import task_toolset
from k25.rl.environment import Change, Environment, Example
from k25.tasks import get_task
from k25.tasks.sample import generator


class TaskEnvironment(Environment):
    """One task. Its reward has one part, `correct`: the task's own score, 0 without an answer.

    difficulty: one, or the easiest and the hardest of a range from which every exercise draws evenly.

    Raises InputError for an unknown task and for a difficulty that it does not have.
    """

    def __init__(
        self,
        task: str,
        difficulty: int | Sequence[int] = 1,
        *,
        max_steps: int = 8,
        changes: Sequence[Change] = (),
    ) -> None:
        self._task = get_task(task)
        easiest, hardest = (difficulty, difficulty) if isinstance(difficulty, int) else (difficulty[0], difficulty[-1])
        if not 1 <= easiest <= hardest <= self._task.hardest:
            raise InputError(f"{task}: difficulty {difficulty} is outside 1 to {self._task.hardest}")
        self._difficulties = easiest, hardest
        self.name, self.domain = task, self._task.domain
        self.max_steps, self.changes = max_steps, changes

    def example(self, seed: int, index: int) -> Example:
        """Exercise number `index` of a stream; `gold` is the task's sample."""
        difficulty = generator(f"rl/{self.name}", seed, index, 0).randint(*self._difficulties)
        sample = self._task.sample(seed, index, difficulty)
        return Example(f"{self.name}/{seed}/{index}/{difficulty}", sample.prompt, sample, sample.media)

    def toolset(self, example: Example) -> Toolset:
        """The tools that the exercise declares."""
        return task_toolset(self._task, example.gold)

    async def score(self, example: Example, trajectory: Trajectory) -> Mapping[str, float]:
        """The task's score of the answer."""
        answered = trajectory.reason == "answered"
        return {"correct": self._task.score(example.gold, trajectory.text) if answered else 0.0}
