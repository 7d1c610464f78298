"""The next token of every row at once: penalties, bias, masks, temperature, truncation, draw, log-probabilities.

Random numbers are a function of (seed, number of the output token) alone, so what else is in the batch, how the prompt
was cut and whether it was cached change nothing. The order of the rules is in `SamplingParameters`.

Shape suffixes: R rows, V vocabulary, G guided rows, W 32-bit words of a mask, K candidates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k25 import kernels
from k25.engine.types import SamplingParameters

# Top-p first looks among so many likeliest tokens, which nearly always suffices; sorting the vocabulary is slow.
_CANDIDATES = 1024


class SamplingState:
    """What sampling has to remember of one request."""

    def __init__(self, parameters: SamplingParameters, prompt: Sequence[int], seed: int) -> None:
        self.parameters = parameters
        self.seed = seed % 2**64
        self.generated = 0
        self._counts: dict[int, int] | None = None
        if self.penalised:
            # Prompt tokens count zero times: only the repetition penalty looks at them.
            self._counts = dict.fromkeys(prompt, 0) if parameters.repetition_penalty != 1 else {}

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens change the scores."""
        p = self.parameters
        return p.repetition_penalty != 1 or p.frequency_penalty != 0 or p.presence_penalty != 0

    def accept(self, token_id: int) -> None:
        """Count a generated token."""
        self.generated += 1
        if self._counts is not None:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1

    def seen(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Tokens of prompt and output, and how often each was generated."""
        counts = self._counts or {}
        ids = np.fromiter(counts.keys(), np.int64, len(counts))
        return ids, np.fromiter(counts.values(), np.float32, len(counts))


@dataclass(frozen=True)
class Sampled:
    """One row's outcome; `token_id` None where no token has a finite score."""

    token_id: int | None
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]


def sample(
    logits_RV: Tensor,
    states: Sequence[SamplingState],
    masks: Sequence[Tensor | None],
    never: int | None = None,
    *,
    use_kernels: bool = False,
) -> list[Sampled]:
    """Choose a token per row of logits (any floating dtype); `masks[r]` (W,) int32 on the CPU is a guide's mask.

    The token `never` is not chosen, though its probability counts in the log-probabilities. `use_kernels` lets scores
    on the CPU be searched and summed by the compiled kernels.
    """
    fast = use_kernels and logits_RV.device.type == "cpu"
    raw_RV = logits_RV.float()
    if never is not None:
        unmasked_R = raw_RV[:, never].clone()
        raw_RV[:, never] = float("-inf")
    scores_RV = _adjusted(raw_RV, states, masks)
    tokens_R, best_R = kernels.best(scores_RV) if fast else (scores_RV.argmax(-1), scores_RV.amax(-1))
    drawn = [row for row, state in enumerate(states) if state.parameters.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=raw_RV.device)
        tokens_R = tokens_R.index_copy(0, rows, _draw(scores_RV[rows], [states[row] for row in drawn]))
    if never is not None:
        raw_RV[:, never] = unmasked_R
    wanted = any(state.parameters.logprobs or state.parameters.top_logprobs for state in states)
    if not wanted:
        return [Sampled(token, None, ()) for token in _tokens(tokens_R, best_R)]
    log_sum_R = kernels.log_sum_exp(raw_RV) if fast else raw_RV.logsumexp(-1)
    return _with_logprobs(raw_RV, log_sum_R[:, None], tokens_R, best_R, states)


def uniform(seeds: Sequence[int], counters: Sequence[int]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each pair, by the SplitMix64 finaliser (Steele, Lea, Flood 2014) over seed and counter."""
    mixed = _mix(_mix(np.array(seeds, np.uint64)) + np.array(counters, np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _adjusted(raw_RV: Tensor, states: Sequence[SamplingState], masks: Sequence[Tensor | None]) -> Tensor:
    scores_RV = raw_RV
    for change in (_penalise, _bias, _hold_back_stops):
        scores_RV = change(scores_RV, raw_RV, states)
    guided = [row for row, mask in enumerate(masks) if mask is not None]
    if guided:
        words_GW = torch.stack([mask for mask in masks if mask is not None])
        bits = np.unpackbits(words_GW.numpy().view(np.uint8), axis=1, bitorder="little")
        forbidden_GV = torch.from_numpy(bits[:, : raw_RV.shape[1]] == 0).to(raw_RV.device)
        scores_RV = scores_RV.clone() if scores_RV is raw_RV else scores_RV
        scores_RV[guided] = scores_RV[guided].masked_fill(forbidden_GV, float("-inf"))
    return scores_RV


def _penalise(scores_RV: Tensor, raw_RV: Tensor, states: Sequence[SamplingState]) -> Tensor:
    rows, ids, counts, parameters = [], [], [], []
    for row, state in enumerate(states):
        if state.penalised:
            row_ids, row_counts = state.seen()
            p = state.parameters
            rows.append(np.full(len(row_ids), row))
            ids.append(row_ids)
            counts.append(row_counts)
            one_row = [[p.repetition_penalty, p.frequency_penalty, p.presence_penalty]]
            parameters.append(np.repeat(np.array(one_row, np.float32), len(row_ids), axis=0))
    if not rows:
        return scores_RV
    device = scores_RV.device
    index = (_on(device, np.concatenate(rows)), _on(device, np.concatenate(ids)))
    count = _on(device, np.concatenate(counts))
    repetition, frequency, presence = _on(device, np.concatenate(parameters)).unbind(1)
    values = scores_RV[index]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - frequency * count - presence * (count > 0)
    return _copied(scores_RV, raw_RV).index_put_(index, values)


def _bias(scores_RV: Tensor, raw_RV: Tensor, states: Sequence[SamplingState]) -> Tensor:
    entries = [(row, *pair) for row, state in enumerate(states) for pair in state.parameters.logit_bias.items()]
    if not entries:
        return scores_RV
    rows, ids, bias = zip(*entries, strict=True)
    device = scores_RV.device
    index = (torch.tensor(rows, device=device), torch.tensor(ids, device=device))
    values = torch.tensor(bias, dtype=torch.float32, device=device)
    return _copied(scores_RV, raw_RV).index_put_(index, values, accumulate=True)


def _hold_back_stops(scores_RV: Tensor, raw_RV: Tensor, states: Sequence[SamplingState]) -> Tensor:
    held = [
        (row, token)
        for row, state in enumerate(states)
        if state.generated < state.parameters.min_tokens
        for token in state.parameters.stop_token_ids
    ]
    if not held:
        return scores_RV
    rows, ids = torch.tensor(held, device=scores_RV.device).unbind(1)
    return _copied(scores_RV, raw_RV).index_put_((rows, ids), scores_RV.new_tensor(float("-inf")))


def _copied(scores: Tensor, raw: Tensor) -> Tensor:
    """The model's own scores are needed untouched for the log-probabilities."""
    return scores.clone() if scores is raw else scores


def _on(device: torch.device, values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values).to(device)


def _draw(scores_RV: Tensor, states: Sequence[SamplingState]) -> Tensor:
    device = scores_RV.device

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    parameters = [state.parameters for state in states]
    weights_RV = (scores_RV / column([p.temperature for p in parameters])).softmax(-1)
    cut = [row for row, p in enumerate(parameters) if p.top_p < 1 or 0 < p.top_k < scores_RV.shape[1]]
    if cut:
        rows = torch.tensor(cut, device=device)
        of_cut = [parameters[row] for row in cut]
        weights_RV = weights_RV.index_copy(0, rows, _truncated(weights_RV[rows], of_cut))
    if any(p.min_p > 0 for p in parameters):
        least = column([p.min_p for p in parameters]) * weights_RV.amax(-1, keepdim=True)
        weights_RV = weights_RV.masked_fill(weights_RV < least, 0)
    cumulative_RV = weights_RV.cumsum(-1, dtype=torch.float64)
    total = cumulative_RV[:, -1:]
    numbers = _on(device, uniform([s.seed for s in states], [s.generated for s in states]))[:, None]
    # A product rounded up to the total would point past the last token.
    target = torch.minimum(numbers * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative_RV, target, right=True)[:, 0].clamp_(max=scores_RV.shape[1] - 1)


def _truncated(weights_RV: Tensor, parameters: Sequence[SamplingParameters]) -> Tensor:
    """The weights with everything outside top-k, then outside top-p of what is left, set to zero."""
    vocabulary = weights_RV.shape[1]
    top_k = [p.top_k or vocabulary for p in parameters]
    largest_k = max([k for k in top_k if k < vocabulary], default=0)
    device = weights_RV.device
    top_k_R1 = torch.tensor(top_k, device=device)[:, None]
    top_p_R1 = torch.tensor([p.top_p for p in parameters], dtype=torch.float64, device=device)[:, None]
    candidates = min(vocabulary, max(_CANDIDATES, largest_k))
    while True:
        values_RK, ids_RK = weights_RV.topk(candidates)
        values_RK = values_RK.masked_fill(torch.arange(candidates, device=device) >= top_k_R1, 0)
        cumulative_RK = values_RK.cumsum(-1, dtype=torch.float64)
        # Without top-k, what lies beyond the candidates counts towards the total.
        total_R1 = torch.where(top_k_R1 < vocabulary, cumulative_RK[:, -1:], 1.0)
        wanted_R1 = top_p_R1 * total_R1
        enough = (cumulative_RK[:, -1:] >= wanted_R1) | (top_k_R1 < vocabulary)
        if candidates == vocabulary or bool(enough.all()):
            break
        candidates = vocabulary
    before_RK = cumulative_RK - values_RK
    kept_RK = values_RK.masked_fill(before_RK >= wanted_R1, 0)
    return torch.zeros_like(weights_RV).scatter_(1, ids_RK, kept_RK)


def _tokens(tokens_R: Tensor, best_R: Tensor) -> list[int | None]:
    """None where not even the best score is finite."""
    chosen = zip(tokens_R.tolist(), best_R.tolist(), strict=True)
    return [token if math.isfinite(best) else None for token, best in chosen]


def _with_logprobs(
    raw_RV: Tensor, log_sum_R1: Tensor, tokens_R: Tensor, best_R: Tensor, states: Sequence[SamplingState]
) -> list[Sampled]:
    chosen = (raw_RV.gather(1, tokens_R[:, None]) - log_sum_R1)[:, 0].tolist()
    top = max(state.parameters.top_logprobs for state in states)
    values_RK, ids_RK = raw_RV.topk(min(top, raw_RV.shape[1]))
    pairs = zip((values_RK - log_sum_R1).tolist(), ids_RK.tolist(), strict=True)
    outcomes = []
    for token, logprob, (values, ids), state in zip(_tokens(tokens_R, best_R), chosen, pairs, states, strict=True):
        p = state.parameters
        likeliest = tuple(zip(ids, values, strict=True))[: p.top_logprobs]
        asked = p.logprobs or p.top_logprobs > 0
        outcomes.append(Sampled(token, logprob if asked else None, likeliest))
    return outcomes
