"""The recipe of a reinforcement learning run: environments, groups, objective, staleness, sampling.

Everything that the stages share (network, optimiser, schedule, checkpoints) is said as in `k25.train.recipe`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from k25.engine import SamplingParameters
from k25.evaluation import Form
from k25.rl.learner import ExpertChoices
from k25.rl.objective import ObjectiveConfig
from k25.rl.toggle import ToggleConfig
from k25.train.off import PositiveOrOff
from k25.train.recipe import Section, StageRecipe, nearest, read_toml, recipe_path, validated, with_overrides

_Count = Annotated[int, Field(ge=1)]


def _toggle(value: Any) -> Any:
    known = [field.name for field in fields(ToggleConfig)]
    for key in value if isinstance(value, Mapping) else ():
        if key not in known:
            raise ValueError(f"unknown key {key}; {nearest(key, known)}")
    return value


_Toggle = Annotated[
    ToggleConfig, BeforeValidator(_toggle), PlainSerializer(lambda config: asdict(config), when_used="json")
]


class EnvironmentConfig(Section):
    """One environment of the mixture.

    Attributes:
        name: `task:NAME`, `swarm:NAME`, `verifiers:NAME` or `package.module:Class`; see `k25.rl.registry`.
        weight: share of the prompts, relative to the others'.
        options: what the environment takes, such as `difficulty`.
    """

    name: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class SamplingConfig(Section):
    """How a role answers.

    Attributes:
        form: `thinking` or `instant` for conversations, `plain` for running text without chat markup.
        temperature, top_p, max_tokens: of every turn.
    """

    form: Form = "instant"
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: _Count = 256

    def parameters(self) -> SamplingParameters:
        """For the engine."""
        return SamplingParameters(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class RoleConfig(Section):
    """A frozen model that plays another role, such as PARL's sub-agents.

    Attributes:
        start_from: a checkpoint in the released layout, or a finished run's folder.
        sampling: how it answers.
    """

    start_from: str
    sampling: SamplingConfig = SamplingConfig()


class RolloutsConfig(Section):
    """How rollouts run.

    Attributes:
        concurrency: rollouts that run at the same time.
        cache_tokens: tokens of all running conversations that an engine's cache holds.
        precision: of the policy's engine. With float32 and no staleness it shares the weights in training, so that its
            log-probabilities are the trainer's; bfloat16 keeps a copy, for which there are compiled CPU kernels.
        token_budget: tokens that a rollout may have from engines in one iteration; a longer one is cut and goes on in
            the next (partial rollout). "off" for no limit.
        expert_choices: `record` keeps which experts the policy's engine sent every token to, and reports how often the
            trainer's routers would choose others; `replay` also trains with the engine's choices, weighed by the
            trainer's scores.
        shown: groups of every step whose rollouts are kept for reading in `rollouts.jsonl`.
    """

    concurrency: _Count = 128
    cache_tokens: _Count = 65_536
    precision: Literal["float32", "bfloat16"] = "float32"
    token_budget: PositiveOrOff = None
    expert_choices: ExpertChoices = "off"
    shown: Annotated[int, Field(ge=0)] = 2


class RLRecipe(StageRecipe):
    """A run of reinforcement learning.

    Attributes:
        environments: the mixture.
        prompts: so many distinct prompts, which come again in another order when all were asked; "off" never repeats.
        prompts_per_step: groups in one update.
        group_size: rollouts of each prompt, K.
        objective: see `ObjectiveConfig`.
        toggle: see `ToggleConfig`; without this table rewards are never gated.
        staleness: updates that rollouts may be ahead of the weights: 0 trains and rolls out in turns, more at once.
        push_every: updates from one set of rollouts, that is, between two replacements of the engine's weights.
        sequence_tokens: length of a packed stream in training.
        sampling: how the policy answers.
        rollouts: see `RolloutsConfig`.
        roles: frozen models by the name of the role that they play.
        engines: URLs of running `k25 serve` servers by role, `policy` or one of `roles`; a role without any has an
            engine in this process. They may change when a run is continued.
        seed: of prompts and rollouts.
    """

    stage: Literal["rl"]
    environments: tuple[EnvironmentConfig, ...] = ()
    prompts: PositiveOrOff = None
    prompts_per_step: _Count
    group_size: Annotated[int, Field(ge=2)]
    objective: ObjectiveConfig = ObjectiveConfig()
    toggle: _Toggle | None = None
    staleness: Annotated[int, Field(ge=0)] = 0
    push_every: _Count = 1
    sequence_tokens: _Count = 4096
    sampling: SamplingConfig = SamplingConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    roles: dict[str, RoleConfig] = Field(default_factory=dict)
    engines: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, number in (("prompts", self.prompts), ("rollouts.token_budget", self.rollouts.token_budget)):
            if number is not None and number != int(number):
                raise ValueError(f'{name} is {number}; give a whole number or "off"')
        if self.push_every > 1 and self.rollouts.token_budget is not None:
            raise ValueError("rollouts.token_budget and push_every > 1 exclude each other; leave one of them out")
        if "policy" in self.roles:
            raise ValueError("roles.policy: the policy is the network in training; it starts from model.start_from")
        if "policy" in self.engines and self.rollouts.expert_choices != "off":
            raise ValueError('rollouts.expert_choices: servers do not tell which experts they chose; leave it at "off"')
        for role in self.engines.keys() - {"policy"} - self.roles.keys():
            raise ValueError(f"engines.{role}: there is no such role; {nearest(role, ['policy', *self.roles])}")
        urls = [url.rstrip("/") for given in self.engines.values() for url in given]
        for url in urls:
            if urls.count(url) > 1:
                raise ValueError(f"engines: {url} is there twice; a server has the weights of one role")
        return self


def load_rl_recipe(name: str, overrides: Sequence[str] = ()) -> RLRecipe:
    """The recipe called `name` with overrides `key.key=value`. Raises InputError that names the file and the key."""
    path = recipe_path(name)
    return parse_rl_recipe(read_toml(path), overrides, str(path))


def parse_rl_recipe(table: Mapping[str, Any], overrides: Sequence[str] = (), place: str = "recipe") -> RLRecipe:
    """A recipe from its table; `place` begins every error."""
    return validated(RLRecipe, with_overrides(table, overrides), place)
