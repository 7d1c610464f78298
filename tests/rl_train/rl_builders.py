"""A tiny policy, an environment of one's own and a recipe that the trainer's tests share."""

import random

from k25.rl import Environment, Example
from k25.rl.recipe import parse_rl_recipe
from k25.rl.trainer import RLTrainer
from k25.train.metrics import read_metrics
from k25.train.parallel.ranks import ranks

TINY_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
TINY_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


class Letters(Environment):
    """The share of letters in the answer: something that even a random network can learn."""

    name = "letters"

    def example(self, seed, index):
        word = random.Random(f"{seed} {index}").choice(["apple", "pear", "plum"])
        return Example(f"{word}/{index}", ({"role": "user", "content": word},), word)

    async def score(self, example, trajectory):
        text = trajectory.text
        return {"correct": sum(letter.isalpha() for letter in text) / max(len(text), 1)}


def table(**changes):
    return {
        "stage": "rl",
        "steps": 4,
        "model": {"text": TINY_TEXT, "vision": TINY_VISION},
        "schedule": {"stable": 4},
        "optimizer": {"muon_lr": 4e-3, "adamw_lr": 3e-3},
        "checkpoint": {"every": 2},
        "prompts_per_step": 2,
        "group_size": 4,
        "sequence_tokens": 128,
        "sampling": {"max_tokens": 8},
        "rollouts": {"concurrency": 8, "cache_tokens": 4096},
    } | changes


def rl_recipe(*overrides, **changes):
    return parse_rl_recipe(table(**changes), overrides, "tiny.toml")


def train(of, run, environments=None, **more):
    """Train here in this process; the steps' records."""
    if environments is None and not of.environments:
        environments = [(Letters(), 1.0)]
    with ranks(of.parallel) as here:
        RLTrainer(of, run, here, environments=environments, **more).fit()
    return steps(run)


def steps(run):
    return [record for record in read_metrics(run) if "loss" in record]
