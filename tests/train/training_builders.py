"""A tiny recipe, batches and runs that the trainer's tests share."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from k25.train.batch import Document, PackedBatch, pack_documents
from k25.train.learner import Learner
from k25.train.metrics import Record, read_metrics
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parallel.ranks import ranks
from k25.train.qk_clip import QKClip
from k25.train.recipe import Recipe, parse_recipe
from k25.train.schedules import ScheduleConfig
from k25.train.step import TrainState
from k25.train.step_config import StepConfig
from k25.train.trainer import Trainer

SUMS: dict[str, Any] = {"kind": "tasks", "tasks": ["add"], "difficulty": 1}
PICTURES: dict[str, Any] = {"kind": "tasks", "tasks": ["colour-grid"], "difficulty": 1}
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


def table(**changes: Any) -> dict[str, Any]:
    """A tiny joint stage as its file would say it: 6 steps of two streams of 128 tokens."""
    return {
        "stage": "joint",
        "steps": 6,
        "streams_per_step": 2,
        "model": {"text": TINY_TEXT, "vision": TINY_VISION},
        "schedule": {"warmup": 2, "stable": 4},
        "optimizer": {"muon_lr": 4e-3, "adamw_lr": 3e-3},
        "checkpoint": {"every": 2},
        "data": {
            "sequence_tokens": 128,
            "block_streams": 2,
            "sources": {"sums": SUMS, "pictures": PICTURES},
        },
    } | changes


def recipe(*overrides: str, **changes: Any) -> Recipe:
    return parse_recipe(table(**changes), overrides, "tiny.toml")


def train(of: Recipe, run: Path, stop_after: int | None = None) -> list[Record]:
    """Train here in this process; the steps' records. Raises what `Trainer` raises."""
    watchers = [] if stop_after is None else [CtrlCAfter(stop_after)]
    with ranks(of.parallel) as here:
        Trainer(of, run, here, watchers=watchers).fit()
    return steps(run)


def steps(run: Path) -> list[Record]:
    return [record for record in read_metrics(run) if "loss" in record]


class CtrlCAfter:
    """Presses Ctrl-C when a step is done."""

    def __init__(self, step: int) -> None:
        self._step = step

    def write(self, record: Record) -> None:
        if record["step"] == self._step:
            signal.raise_signal(signal.SIGINT)

    def close(self) -> None:
        pass


def random_documents(lengths: Sequence[int], seed: int = 0, placeholder: int = 85, picture_in: int = -1) -> list:
    """Documents of random tokens and targets; the one numbered `picture_in` begins with a picture of four tokens."""
    chance = np.random.default_rng(seed)
    documents = []
    for number, length in enumerate(lengths):
        ids = chance.integers(0, 64, length).tolist()
        targets = (chance.random(length) < 0.7).tolist()
        targets[0] = False
        patches, grids = None, ()
        if number == picture_in:
            ids[1:5], targets[1:5] = [placeholder] * 4, [False] * 4
            patches, grids = chance.random((16, 3, 14, 14), dtype=np.float32), ((1, 4, 4),)
        weight = 0.5 if number % 2 else 1.0
        documents.append(Document(ids, targets, "ab"[number % 2], patches, grids, weight))
    return documents


def packed(documents: Sequence[Document]) -> PackedBatch:
    return pack_documents(documents, ("a", "b"))


def state(model: torch.nn.Module, **rules: Any) -> TrainState:
    """A fresh state over all parameters, orthogonalising in float32."""
    config = OptimizerConfig(muon_lr=1e-3, adamw_lr=1e-3, newton_schulz_dtype="float32")
    return TrainState(
        learner=Learner(model, measure_logits=True),
        optimizer=MuonClip(model, config),
        config=StepConfig(**rules),
        schedule=ScheduleConfig(stable=100),
        clip=QKClip(model, 100.0),
        balance_size=1e-3,
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def differing(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that are not bit-identical."""
    return {name for name in before.keys() | after.keys() if not torch.equal(before[name], after[name])}
