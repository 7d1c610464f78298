"""An environment around another: base of those that add to its prompts or to its reward."""

from collections.abc import Mapping
from typing import Any

from k25.agent import Toolset
from k25.rl.environment import Environment, Example
from k25.rl.pool import Instance
from k25.rl.registry import environment as environment_named


class WrappedEnvironment(Environment):
    """The examples, tools, instances and weights of another environment, which may be given by its name and options."""

    def __init__(self, environment: Environment | str, options: Mapping[str, Any] | None = None) -> None:
        inner = environment_named(environment, options) if isinstance(environment, str) else environment
        self.inner = inner
        self.name, self.domain, self.max_steps = inner.name, inner.domain, inner.max_steps
        self.weights, self.changes, self.instances = inner.weights, inner.changes, inner.instances

    def example(self, seed: int, index: int) -> Example:
        """That of the environment within."""
        return self.inner.example(seed, index)

    def toolset(self, example: Example) -> Toolset:
        """That of the environment within."""
        return self.inner.toolset(example)

    async def make_instance(self) -> Instance:
        """That of the environment within."""
        return await self.inner.make_instance()
