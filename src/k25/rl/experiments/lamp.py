"""A lamp that is seen through clear air or fog: real test-time scaling in the smallest form.

The lamp has a colour that only the tool `look` can see. In clear air every look shows it. In fog a look shows it with a
fixed chance, else another colour at random; looks are independent, so that the most frequent of n readings is right the
more often the larger n is. A look costs the tokens of a tool call. How often to look, the policy decides: one look is
enough in clear air, and in fog every further one pays.
"""

from random import Random

from k25.agent import Tool, ToolContext, ToolOutput, Toolset
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.scope import Scope
from k25.tasks.sample import Domain
from k25.tasks.scoring import same_words

NAMES = "abcdefgh"
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange")


class Look(Tool):
    """One reading per call; once `most` have been taken it refuses."""

    name = "look"
    description = "Look at the lamp."

    def __init__(self, colour: str, right: float, most: int, numbers: Random) -> None:
        self.parameters: JsonObject = {"type": "object", "properties": {}}
        self._colour, self._right, self._most, self._numbers = colour, right, most, numbers
        self.readings: list[str] = []

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002 - takes none
        """A reading."""
        if len(self.readings) >= self._most:
            return ToolOutput.error("it is dark")
        self.readings.append(reading(self._colour, self._right, self._numbers))
        return ToolOutput(self.readings[-1])


def reading(colour: str, right: float, numbers: Random) -> str:
    """What one look shows."""
    others = [other for other in COLOURS if other != colour]
    return colour if numbers.random() < right else numbers.choice(others)


def question(name: str, *, fog: bool, looks: int | None = None) -> tuple[JsonObject, ...]:
    """The prompt; it says whether there is fog, and how often to look only where that is given."""
    wish = "" if looks is None else f", {looks} looks"
    return ({"role": "user", "content": f"lamp {name}, {'fog' if fog else 'clear'}{wish}"},)


class Lamp(Environment):
    """Lamps in one kind of air.

    The prompts are few, one for each name; the colour is drawn anew in every rollout, from the rollout's name and
    seed, and the readings with it.

    fog: whether there is fog; `name` is `lamp-fog` or `lamp-clear`. right: the chance of a right reading in fog.
    most: looks that show something.

    Raises InputError for a chance outside 0 to 1 and for less than one look.
    """

    domain: Domain = "agentic"

    def __init__(self, *, fog: bool, right: float = 0.4, most: int = 12, max_steps: int = 3) -> None:
        if not 0 <= right <= 1 or most < 1:
            raise InputError(f"right is {right} and most {most}: right is a chance from 0 to 1, most at least 1")
        self.name = "lamp-fog" if fog else "lamp-clear"
        self.max_steps = max_steps
        self._fog, self._right, self._most = fog, right if fog else 1.0, most

    def example(self, seed: int, index: int) -> Example:  # noqa: ARG002 - the prompts are the same in every stream
        """The names in turn."""
        name = NAMES[index % len(NAMES)]
        return Example(f"{self.name}/{name}", question(name, fog=self._fog))

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """Look, then answer with the colour. The reward's one part is `correct`; `looks` is reported."""
        numbers = Random(f"lamp/{scope.seed}/{scope.name}")
        colour = numbers.choice(COLOURS)
        look = Look(colour, self._right, self._most, numbers)
        trajectory = await scope.run(example.messages, Toolset(self.name, [look]), max_steps=self.max_steps)
        answered = trajectory.reason == "answered"
        correct = same_words(colour, trajectory.text) if answered else 0.0
        return Outcome({"correct": correct}, trajectory, {f"looks_{self.name}": float(len(look.readings))})
