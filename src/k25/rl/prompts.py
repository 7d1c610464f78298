"""Which prompts an update asks: a pure function of recipe and step, so that a resumed run asks the same."""

import random
from collections.abc import Sequence
from itertools import accumulate

from k25.errors import InputError
from k25.rl.environment import Environment
from k25.rl.recipe import RLRecipe
from k25.rl.registry import environment
from k25.rl.rollouts import GroupRequest

# Seeds of all prompts that a run will ever ask, of 2^20 runs, fit into 63 bits.
_PROMPTS = 2**42

Mixture = Sequence[tuple[Environment, float]]


class Prompts:
    """The prompts of a run.

    mixture: environments with their weights; by default those of the recipe. Raises InputError where there are none.
    """

    def __init__(self, recipe: RLRecipe, mixture: Mixture | None = None) -> None:
        if mixture is None:
            mixture = [(environment(each.name, each.options), each.weight) for each in recipe.environments]
        if not mixture:
            raise InputError("environments: there are none; name at least one")
        self.environments = [made for made, _ in mixture]
        self._heights = list(accumulate(weight for _, weight in mixture))
        self._seed, self._per_step, self._size = recipe.seed, recipe.prompts_per_step, recipe.group_size
        self._distinct = None if recipe.prompts is None else int(recipe.prompts)

    def of_step(self, step: int) -> list[GroupRequest]:
        """The requests of an update, counted from 0."""
        return [self._request(number) for number in range(step * self._per_step, (step + 1) * self._per_step)]

    def _request(self, number: int) -> GroupRequest:
        index = self._index(number)
        drawn = random.Random(f"environment {self._seed} {index}").random() * self._heights[-1]
        asked = next(made for made, height in zip(self.environments, self._heights, strict=True) if drawn < height)
        # Each asking has its own random numbers, that of a prompt asked before too.
        return GroupRequest(asked, asked.draw(self._seed, index), self._size, self._seed * _PROMPTS + number)

    def _index(self, number: int) -> int:
        """Which of the prompts comes at a place; with a limited number, each once before any comes again."""
        if self._distinct is None:
            return number
        epoch, place = divmod(number, self._distinct)
        order = list(range(self._distinct))
        random.Random(f"order {self._seed} {epoch}").shuffle(order)
        return order[place]
