"""A whole training step: forward, backward, clipping, optimiser, and with MuonClip also QK-Clip and balancing.

Ours against transformers' own implementation of the same network and weights, with torch's Muon (and AdamW for what is
no matrix) or with AdamW alone; both in float32 on the CPU and in bfloat16 on CUDA. "mixed" are the documents that the
text source of the preset's joint recipe makes, packed, with answers as targets; transformers takes them padded, and
padding does not count. "equal" are documents of 256 tokens, all of them targets. Text only: transformers pads pictures
too, so the comparison would be one of layouts.

On the CPU cases count processor time of one thread, on CUDA wall time. "% of the peak" sets the arithmetic of our step
(k25.train.flops) against what a large matrix product reaches on the same device, "optimiser's share" its part of it.

    python benchmarks/train.py [--quick] [--json FILE] [--only TEXT]
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Kimi_K25ForConditionalGeneration

from harness import Case, main
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.model import K25Model, preset
from k25.train.batch import Document, PackedBatch, pack_documents
from k25.train.data import Streams, parse_data_config
from k25.train.flops import StepArithmetic
from k25.train.learner import Learner
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parallel.apply import parallelise
from k25.train.parallel.config import ParallelConfig
from k25.train.parallel.ranks import Ranks, ranks
from k25.train.qk_clip import QKClip
from k25.train.recipe import load_recipe
from k25.train.schedules import ScheduleConfig
from k25.train.step import TrainState, train_step
from k25.train.step_config import StepConfig
from model import DEVICE, build, padded

ON_GPU = DEVICE == "cuda"
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
UNIT = "us/token" if ON_GPU else "CPU us/token"
CONFIG = OptimizerConfig()
LIMIT = 1.0
# Tokens of a step: a stream of the nano recipe, and as much of the small one as a processor does in reasonable time.
TOKENS = {"nano": 2048, "small": 32_768 if ON_GPU else 1024}
TABLES = ("embed_tokens.weight", "lm_head.weight")
Step = Callable[[], object]


def cost(step: Step, tokens: int) -> Callable[[], float]:
    """Microseconds per token of one step."""

    def measured() -> float:
        return 1e6 * seconds(step) / tokens

    return measured


def seconds(step: Step) -> float:
    """Processor time of a step, or wall time until the GPU has finished."""
    if not ON_GPU:
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def mixed(name: str) -> PackedBatch:
    """The first stream of the text source of the preset's joint recipe."""
    recipe = load_recipe(f"{name}/joint")
    table = {"sequence_tokens": TOKENS[name], "sources": {"text": recipe.data.sources["text"].model_dump()}}
    tokenizer = preset_tokenizer(preset(name).text.vocab_size - CONTROL_TOKEN_COUNT)
    return Streams(parse_data_config(table), tokenizer).batch(0)


def equal(name: str) -> PackedBatch:
    """Documents of 256 random tokens, everything to be learnt."""
    tokens = torch.randint(0, 1000, (TOKENS[name] // 256, 256)).tolist()
    return pack_documents([Document(ids, [False] + [True] * 255, "text") for ids in tokens], ("text",))


def our_step(model: K25Model, batch: PackedBatch, here: Ranks) -> tuple[TrainState, Step]:
    """MuonClip's training step as the trainer takes it."""
    learner = our_learner(model, here, measure_logits=True)
    state = TrainState(
        learner=learner,
        optimizer=MuonClip(learner.model, CONFIG),
        config=StepConfig(max_gradient_norm=LIMIT),
        schedule=ScheduleConfig(stable=1_000_000),
        clip=QKClip(learner.model, 100.0),
        balance_size=1e-3,
    )

    return state, lambda: train_step(state, [batch])


def our_learner(model: K25Model, here: Ranks, *, measure_logits: bool) -> Learner:
    """The network as the trainer makes it ready for the device and the precision."""
    recipe = load_recipe("nano/joint", [f"precision={str(DTYPE).removeprefix('torch.')}"])
    return parallelise(Learner(model, measure_logits=measure_logits), recipe, here)


def our_adamw_step(model: K25Model, batch: PackedBatch, here: Ranks) -> Step:
    """The same objective under AdamW alone, as the peer has it."""
    learner = our_learner(model, here, measure_logits=False)
    parameters = list(learner.model.parameters())
    return plain_step(lambda: learner(batch).loss / batch.target_tokens, parameters, [adamw(learner.model)])


def their_step(peer: Kimi_K25ForConditionalGeneration, batch: PackedBatch, muon: bool) -> Step:
    """Transformers' forward pass and the same loss, under torch's optimisers."""
    rows, mask = padded(batch.tokens_T, batch.boundaries_S.diff().tolist())
    learnt = batch.loss_weights_T > 0
    targets, weights = batch.targets_T[learnt], batch.loss_weights_T[learnt]

    def loss() -> Tensor:
        with torch.autocast(DEVICE, DTYPE, enabled=ON_GPU):
            logits = peer(input_ids=rows, attention_mask=mask.long()).logits[mask][learnt]
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        return (losses * weights).sum() / weights.sum()

    language = nn.ModuleList([peer.model.language_model, peer.lm_head])
    if not muon:
        return plain_step(loss, list(language.parameters()), [adamw(language)])
    matrices, rest = muon_split(peer)
    optimisers = [
        torch.optim.Muon(matrices, lr=CONFIG.muon_lr, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=CONFIG.adamw_lr, betas=CONFIG.adamw_betas, fused=True),
    ]
    return plain_step(loss, list(language.parameters()), optimisers)


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """Torch's fused AdamW over everything."""
    return torch.optim.AdamW(module.parameters(), lr=CONFIG.adamw_lr, betas=CONFIG.adamw_betas, fused=True)


def muon_split(peer: Kimi_K25ForConditionalGeneration) -> tuple[list[Tensor], list[Tensor]]:
    """The language model's matrices one by one, as torch's Muon takes them, and all other parameters.

    Gradients are made once and kept, so that the views of stacked experts keep theirs.
    """
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    named = [(name, parameter) for name, parameter in peer.named_parameters() if "language" in name or "head" in name]
    for name, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
        if parameter.ndim < 2 or name.endswith(TABLES):
            rest.append(parameter)
            continue
        parts = 2 if "gate_up" in name else 1
        shape = (-1, parameter.shape[-2] // parts, parameter.shape[-1])
        for weight, gradient in zip(parameter.detach().view(shape), parameter.grad.view(shape), strict=True):
            weight.grad = gradient
            matrices.append(weight)
    return matrices, rest


def plain_step(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], optimisers: list[torch.optim.Optimizer]
) -> Step:
    """Forward, backward, clipping and torch's optimisers; gradients are zeroed in place."""

    def step() -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)
        for optimiser in optimisers:
            optimiser.step()

    return step


def optimiser_share(state: TrainState, step: Step) -> Callable[[], float]:
    """Per cent of a step that the optimiser takes."""
    inside = state.optimizer.step
    spent = 0.0

    def watched() -> None:
        nonlocal spent
        spent += seconds(inside)

    def share() -> float:
        nonlocal spent
        spent = 0.0
        state.optimizer.step = watched  # type: ignore[assignment, method-assign]
        whole = seconds(step)
        state.optimizer.step = inside  # type: ignore[method-assign]
        return 100 * spent / whole

    return share


def peak() -> float:
    """Operations per second of a large matrix product, by the same clock as the steps."""
    side = 8192 if ON_GPU else 1536
    a, b = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(10))


def cases(name: str, kind: str, batch: PackedBatch, here: Ranks) -> Iterator[Case]:
    """All comparisons on one batch; every side has a network of its own."""
    batch = batch.to(torch.device(DEVICE))
    tokens, label = len(batch.tokens_T), f"{name} {kind}"
    state, step = our_step(build(name, torch.float32).ours, batch, here)
    ours = cost(step, tokens)
    muon = cost(their_step(build(name, torch.float32).peer, batch, muon=True), tokens)
    yield Case(f"{label}, MuonClip", ours, muon, "transformers, torch Muon", UNIT, measures_itself=True)
    theirs = cost(their_step(build(name, torch.float32).peer, batch, muon=False), tokens)
    yield Case(f"{label}, MuonClip and AdamW", ours, theirs, "transformers, AdamW", UNIT, measures_itself=True)
    plain = cost(our_adamw_step(build(name, torch.float32).ours, batch, here), tokens)
    yield Case(f"{label}, AdamW", plain, theirs, "transformers, AdamW", UNIT, measures_itself=True)
    operations = StepArithmetic(state.learner.model.config).operations(batch)
    best = peak()
    used = lambda: 100 * operations / seconds(step) / best  # noqa: E731
    yield Case(f"{label}, model arithmetic", used, unit="% of the peak", measures_itself=True)
    yield Case(f"{label}, optimiser's share", optimiser_share(state, step), unit="% of a step", measures_itself=True)


def steps(quick: bool) -> Iterable[Case]:
    """Both kinds of documents for both presets; `--quick` takes nano's mixed ones."""
    torch.set_num_threads(1)
    with ranks(ParallelConfig()) as here:
        for name in ("nano",) if quick else ("nano", "small"):
            yield from cases(name, "mixed", mixed(name), here)
            if not quick:
                yield from cases(name, "equal", equal(name), here)


if __name__ == "__main__":
    main("train", [steps])
