"""Environments by name, as recipes write them.

task:NAME             a task of `k25.tasks` (`k25 data tasks` lists them)
swarm:NAME            agents that start agents
verifiers:NAME        an installed environment of `verifiers`
package.module:Class  your own: an installed module, or one in the folder where the command is run
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from k25.errors import InputError
from k25.rl.environment import Environment

# Family -> where its maker stands: a function or class that takes the name after the colon, then options by keyword.
_FAMILIES = {
    "task": "k25.rl.task_environment:TaskEnvironment",
    "swarm": "k25.rl.parl:swarm_environment",
    "verifiers": "k25.rl.verifiers_adapter:VerifiersEnvironment",
}


def environment(name: str, options: Mapping[str, Any] | None = None) -> Environment:
    """The environment called `name`, made with `options`. Raises InputError that names what does not fit."""
    family, colon, rest = name.partition(":")
    if not (family and colon and rest):
        raise InputError(f"environment {name!r}: write task:NAME, swarm:NAME, verifiers:NAME or package.module:Class")
    known = family in _FAMILIES
    if not known and str(Path.cwd()) not in sys.path:
        # As `python -m` does; last, so that a file there takes no library's place.
        sys.path.append(str(Path.cwd()))
    make = _found(_FAMILIES[family] if known else name, name)
    if not known and not (isinstance(make, type) and issubclass(make, Environment)):
        raise InputError(f"environment {name!r}: {rest} is no subclass of k25.rl.Environment")
    given = [rest] if known else []
    _check_options(make, given, dict(options or {}), name)
    made: Environment = make(*given, **(options or {}))
    return made


def _found(place: str, name: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise InputError(
            f"environment {name!r}: {module} cannot be imported ({error}); install it, or run k25 in its folder"
        ) from None
    except AttributeError:
        raise InputError(f"environment {name!r}: {module} has no {attribute}") from None
    return found


def _check_options(make: Callable[..., Any], given: list[str], options: dict[str, Any], name: str) -> None:
    signature = inspect.signature(make)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    names = list(signature.parameters)[len(given) :]
    for option in () if takes_any else options:
        if option not in names:
            near = difflib.get_close_matches(option, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(names) or 'none'}"
            raise InputError(f"environment {name!r} has no option {option!r}; {hint}")
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        raise InputError(f"environment {name!r}: {error}; give it in options") from None
