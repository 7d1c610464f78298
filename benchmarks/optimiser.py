"""MuonClip's step against torch's own Muon (one matrix after another) with fused AdamW for the other parameters.

Same parameters, same gradients, same settings; torch's Muon takes 2-D parameters only, so every matrix of a stack is a
parameter of its own there, which changes no arithmetic. Both orthogonalise in bfloat16. "Share" sets our step against
forward and backward of a training step of 4,096 tokens: its ratio is how many of our steps fit in.
Runs on CUDA where there is one, else on the CPU, where cases count CPU seconds of one thread.

    python benchmarks/optimiser.py [--quick] [--json FILE] [--only TEXT]
"""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case, main
from k25.model import K25Model, Segments, StreamKeys, initialise, preset
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parameter_groups import parameter_groups

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNIT = "s" if DEVICE == "cuda" else "CPU s"
PEER = "torch Muon + AdamW"
DOCUMENTS = [256] * 16
CONFIG = OptimizerConfig()


def seconds(function: Callable[[], object]) -> Callable[[], float]:
    """The function's cost: CPU seconds, or wall seconds until the GPU has finished."""

    def on_cpu() -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    def on_gpu() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return on_gpu if DEVICE == "cuda" else on_cpu


def with_gradients(name: str) -> K25Model:
    """A random network in float32 with random gradients."""
    model = K25Model(preset(name))
    initialise(model, seed=0)
    model.to(DEVICE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def matrices(parameter: Tensor, parts: int) -> Iterator[Tensor]:
    """The matrices of a parameter, one by one, each with its gradient."""
    assert parameter.grad is not None
    shape = (-1, parameter.shape[-2] // parts, parameter.shape[-1])
    for weight, gradient in zip(parameter.detach().reshape(shape), parameter.grad.reshape(shape), strict=True):
        weight.grad = gradient
        yield weight


def torch_step(model: K25Model) -> Callable[[], None]:
    """The same update by torch's two optimisers."""
    muon: list[Tensor] = []
    adamw = []
    for group in parameter_groups(model, CONFIG):
        if group["algorithm"] == "muon":
            muon += [matrix for parameter in group["params"] for matrix in matrices(parameter, group["parts"])]
        else:
            adamw.append({"params": group["params"], "weight_decay": group["weight_decay"]})
    optimisers = [
        torch.optim.Muon(muon, lr=CONFIG.muon_lr, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adamw, lr=CONFIG.adamw_lr, betas=CONFIG.adamw_betas, fused=True),
    ]

    def step() -> None:
        for optimiser in optimisers:
            optimiser.step()

    return step


def forward_and_backward(model: K25Model) -> Callable[[], None]:
    """The rest of a training step over a packed stream, largest attention logits included."""
    segments = Segments.from_lengths(DOCUMENTS, DEVICE)
    tokens = torch.randint(0, model.config.bos_token_id, (sum(DOCUMENTS),), device=DEVICE)
    positions, targets = segments.positions(), tokens.roll(-1)

    def step() -> None:
        hidden = model(tokens, positions, StreamKeys(segments, measure_logits=True)).hidden_TD
        F.cross_entropy(model.logits(hidden), targets).backward()

    return step


def steps(quick: bool) -> Iterable[Case]:
    """Both comparisons for each preset; `--quick` takes nano alone."""
    torch.set_num_threads(1)
    for name in ("nano",) if quick else ("nano", "small"):
        model = with_gradients(name)
        ours = seconds(MuonClip(model, CONFIG).step)
        yield Case(f"{name}, step", ours, seconds(torch_step(with_gradients(name))), PEER, UNIT, measures_itself=True)
        rest = seconds(forward_and_backward(model))
        yield Case(f"{name}, share", ours, rest, "forward and backward", UNIT, measures_itself=True)


if __name__ == "__main__":
    main("optimiser", [steps])
