"""Tasks of which some pay to be split: wide search, deep search, long documents, downloads.

Kimi K2.5 report, arXiv 2602.02276, section 3: prompts never tell the model to work in parallel; the mix of tasks makes
it pay. In three of the kinds the items do not depend on each other; a deep search is one chain of links, which nobody
can shorten, and shows what a policy does where splitting is of no use.

Every kind has one tool that reads one item in one step and files what it finds in a table that all agents of the
episode share, so that the table and not the last message is the result. A chain gives its next link with each reading.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.tasks.sample import generator

_MOST_ITEMS = 64
_VALUES = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "lagoon")
_NOTHING = "nothing"
_SHARE_OF_FACTS = 0.75


@dataclass(frozen=True)
class Kind:
    """A family of tasks.

    Attributes:
        name: as in `swarm:NAME`.
        prompt: the user's message, with `{items}` where their numbers stand.
        tool: name of the reading tool.
        parameter: its one argument.
        description: what the model is told of it.
        chained: every item names the next one; the prompt gives the first alone.
        sparse: some of the items hold nothing that is wanted.
    """

    name: str
    prompt: str
    tool: str
    parameter: str
    description: str
    chained: bool = False
    sparse: bool = False

    def declared_parameters(self) -> JsonObject:
        """The tool's parameters as a JSON schema."""
        properties = {self.parameter: {"type": "string", "description": "Its number."}}
        return {
            "type": "object",
            "properties": properties,
            "required": [self.parameter],
            "additionalProperties": False,
        }


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("wide-search", "Fill in rows {items}", "lookup", "row", "Look one row up; it is filed."),
            Kind("deep-search", "Follow the links from page {items}", "follow", "page", "Open one page.", chained=True),
            Kind("long-document", "Note the facts in sections {items}", "read", "section", "Read one.", sparse=True),
            Kind("download", "Save files {items}", "download", "file", "Save one file."),
        )
    }
)


@dataclass(frozen=True)
class Workload:
    """One exercise.

    Attributes:
        kind: its family.
        prompt: the user's message.
        items: the numbers from 1 on, or the pages of the chain in their order.
        values: what the wanted items hold.
    """

    kind: Kind
    prompt: str
    items: tuple[str, ...]
    values: Mapping[str, str]

    @property
    def size(self) -> int:
        """How many items there are to be read: the difficulty."""
        return len(self.items)

    def read(self, item: str) -> tuple[str, bool]:
        """What the tool says of an item, and whether it has found something to file."""
        if item not in self.items:
            return _NOTHING, False
        value = self.values.get(item, _NOTHING)
        if self.kind.chained:
            place = self.items.index(item) + 1
            value += f" next {self.items[place]}" if place < self.size else " end"
        return value, item in self.values

    def quality(self, filed: Iterable[str]) -> float:
        """Item-F1 of a table that holds these items: 1 where it holds each wanted one and no other."""
        found = set(filed)
        right = len(found & self.values.keys())
        return 2 * right / (len(found) + len(self.values)) if right else 0.0


def kind(name: str) -> Kind:
    """The kind called `name`. Raises InputError for an unknown one."""
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1)
        raise InputError(
            f"swarm:{name}: there is no such task; " + (f"did you mean {near[0]}?" if near else ", ".join(KINDS))
        )
    return KINDS[name]


def workload(kind: Kind, size: int, seed: int, index: int) -> Workload:
    """Exercise number `index` of a stream, with `size` items. Raises InputError for a size that cannot be."""
    if not 1 <= size <= _MOST_ITEMS:
        raise InputError(f"swarm:{kind.name}: sizes are 1 to {_MOST_ITEMS}, not {size}")
    numbers = generator(f"parl/{kind.name}", seed, index, size)
    known = range(1, size + 1)
    items = tuple(map(str, numbers.sample(known, size) if kind.chained else known))
    wanted = _with_facts(items, numbers) if kind.sparse else items
    values = {item: numbers.choice(_VALUES) for item in wanted}
    shown = items[0] if kind.chained else f"{items[0]} to {items[-1]}"
    return Workload(kind, kind.prompt.format(items=shown), items, values)


def _with_facts(items: Sequence[str], numbers: Random) -> list[str]:
    count = max(1, round(_SHARE_OF_FACTS * len(items)))
    return sorted(numbers.sample(items, count))
