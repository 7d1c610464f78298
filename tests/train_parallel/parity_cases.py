"""A few training steps of a tiny network under a given parallelism; one process or, as a script, one rank of torchrun.

torchrun --nproc-per-node 2 parity_cases.py FOLDER CASE...   writes FOLDER/CASE.pt, the results of each case
"""

import faulthandler
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from k25.model import K25Config, K25Model, TextConfig, VisionConfig, initialise
from k25.train.batch import Document, PackedBatch, pack_documents
from k25.train.data.streams import rank_streams
from k25.train.export import whole
from k25.train.learner import Learner
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parallel.apply import parallelise
from k25.train.parallel.config import ParallelConfig
from k25.train.parallel.ranks import Ranks, divided, ranks
from k25.train.qk_clip import QKClip
from k25.train.recipe import Recipe, parse_recipe
from k25.train.schedules import ScheduleConfig
from k25.train.step import TrainState, train_step
from k25.train.step_config import StepConfig

STREAMS = 4
STEPS = 4
PLACEHOLDER = 85
# Streams of a step with their pictures' grids: owners are uneven, and in the last step nobody has any.
PICTURES = {0: [(1, 4, 4), (2, 2, 6), (1, 2, 2)], 3: [(1, 6, 4)]}


@dataclass(frozen=True)
class Case:
    """What differs between runs; everything else is the same."""

    expert: int = 1
    pictures: bool = True
    decoupled: bool = False
    recompute: str = "none"
    precision: str = "float32"
    trained: tuple[str, ...] = ("decoder", "vision_tower", "projector")
    clip_norm: float = 0.2
    poisoned: bool = False


CASES = {
    "plain": Case(),
    "text": Case(pictures=False),
    "experts": Case(expert=2),
    "recomputed": Case(expert=2, recompute="layers"),
    "decoupled": Case(decoupled=True),
    "frozen decoder": Case(expert=2, trained=("projector",)),
    "frozen vision": Case(trained=("decoder",)),
    "not finite": Case(expert=2, poisoned=True),
    "bfloat16": Case(expert=2, precision="bfloat16", recompute="layers"),
}


def tiny_model() -> K25Model:
    """Odd sizes, so that little divides evenly."""
    text = TextConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        moe_intermediate_size=16,
        n_routed_experts=6,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=25,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    )
    vision = VisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        pos_emb_height=4,
        pos_emb_width=4,
    )
    model = K25Model(K25Config(text, vision, 64, 65, 319, PLACEHOLDER))
    initialise(model, seed=0)
    return model


def stream(index: int, pictures: bool, poisoned: bool) -> PackedBatch:
    """Two documents of random tokens, of different lengths in every stream; one of the second step may be poisoned."""
    chance = np.random.default_rng(index)
    grids = PICTURES.get(index % STREAMS, []) if pictures and index < (STEPS - 1) * STREAMS else []
    documents = []
    for part, length in enumerate(chance.integers(20, 60, size=2).tolist()):
        here = grids if part == 0 else []
        places = sum(rows * columns // 4 for _, rows, columns in here)
        words = chance.integers(100, 300, size=length).tolist()
        documents.append(
            Document(
                token_ids=[*words[:3], *[PLACEHOLDER] * places, *words[3:]],
                is_target=[False] * (3 + places) + (chance.random(length - 3) < 0.7).tolist(),
                source="words",
                patches=np.concatenate(
                    [chance.standard_normal((int(np.prod(grid)), 3, 14, 14), dtype=np.float32) for grid in here]
                )
                if here
                else None,
                grids=tuple(here),
                loss_weight=float("nan") if poisoned and index == STREAMS else 1.0,
            )
        )
    return pack_documents(documents, ("words",))


def recipe(case: Case) -> Recipe:
    table = {
        "stage": "joint",
        "steps": STEPS,
        "streams_per_step": STREAMS,
        "precision": case.precision,
        "recompute": case.recompute,
        "parallel": {"expert": case.expert, "decoupled_encoder": case.decoupled},
        "schedule": {"stable": STEPS},
        "data": {"sequence_tokens": 128, "sources": {"words": {"kind": "tasks", "tasks": "add"}}},
    }
    return parse_recipe(table, [], "case")


def state_of(case: Case, here: Ranks) -> TrainState:
    model = tiny_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(case.trained))
    learner = parallelise(Learner(model, measure_logits=True), recipe(case), here)
    settings = OptimizerConfig(muon_lr=0.01, adamw_lr=0.003, newton_schulz_dtype="float32", adamw_eps=1e-5)
    return TrainState(
        learner=learner,
        optimizer=MuonClip(learner.model, settings),
        config=StepConfig(max_gradient_norm=case.clip_norm),
        schedule=ScheduleConfig(stable=STEPS),
        clip=QKClip(learner.model, 1.5),
        balance_size=0.01,
        group=here.group,
    )


def batches_of(step: int, case: Case, here: Ranks) -> list[PackedBatch]:
    return [
        stream(index, case.pictures, case.poisoned)
        for index in rank_streams(step, STREAMS, here.data_rank, here.data_size)
    ]


def whole_weights(model: K25Model) -> dict[str, torch.Tensor]:
    return {name: whole(tensor.detach()).clone() for name, tensor in model.state_dict().items()}


def run_case(case: Case, here: Ranks) -> dict[str, object]:
    state = state_of(case, here)
    metrics = [train_step(state, batches_of(step, case, here)) for step in range(STEPS)]
    return {
        "losses": [m.loss for m in metrics],
        "norms": [m.gradient_norm for m in metrics],
        "skipped": [m.skipped for m in metrics],
        "clipped": [m.clipped_heads for m in metrics],
        "violations": [m.max_violation_by_layer for m in metrics],
        "weights": whole_weights(state.learner.model),
    }


def alone(case: Case) -> dict[str, object]:
    """The same case in this process."""
    with ranks(ParallelConfig()) as here:
        return run_case(replace(case, expert=1), here)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    torch.set_num_threads(1)
    folder, *names = sys.argv[1:]
    with ranks(ParallelConfig()) as everyone:
        for name in names:
            here = divided(ParallelConfig(expert=CASES[name].expert), everyone.device)
            results = run_case(CASES[name], here)
            if here.first:
                torch.save(results, Path(folder) / f"{name}.pt")
