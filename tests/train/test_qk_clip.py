"""QK-Clip against a loop over heads, its defining property in double precision, and a run built to explode."""

from statistics import median

import pytest
import torch
import torch.nn.functional as F
from optimiser_builders import small_config, small_model

from k25.model import K25Model, Segments, StreamKeys
from k25.model.attention import LatentQuery, MultiHeadLatentAttention
from k25.model.rotary import rotary_table
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.qk_clip import QKClip

WITH_AND_WITHOUT_QUERY_LATENT = pytest.mark.parametrize("q_lora_rank", [25, None])


class RecordedHeads:
    """A key reader that attends naively and keeps every head's logits (H, T, T) and values (T, H, V) of each layer."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def attend(self, layer: int, query: LatentQuery) -> tuple[torch.Tensor, None]:
        key_THN = torch.einsum("tc,hnc->thn", query.latent_TC, query.key_up_HNC)
        value_THV = torch.einsum("tc,hvc->thv", query.latent_TC, query.value_up_HVC)
        logits = torch.einsum("qhn,khn->hqk", query.query_THN, key_THN)
        logits = (logits + torch.einsum("qhr,kr->hqk", query.query_THR, query.key_TR)) * query.scale
        self.logits.append(logits)
        self.values.append(value_THV)
        future = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(future, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khv->qhv", weights, value_THV), None


def attention_and_input(q_lora_rank: int | None) -> tuple[K25Model, torch.Tensor]:
    model = small_model(q_lora_rank).double()
    return model, torch.randn(12, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def heads_of(attention: MultiHeadLatentAttention, x: torch.Tensor) -> RecordedHeads:
    heads = RecordedHeads()
    with torch.no_grad():
        attention(x, rotary_table(attention.config, torch.arange(len(x))), heads)
    return heads


@WITH_AND_WITHOUT_QUERY_LATENT
def test_logits_of_an_offending_head_scale_by_gamma_and_nothing_else_changes(q_lora_rank):
    model, x = attention_and_input(q_lora_rank)
    attention = model.decoder.layers[1].attention
    before = heads_of(attention, x)
    others = {n: p.clone() for n, p in model.named_parameters() if not n.startswith("decoder.layers.1.attention")}
    max_logits = torch.tensor([[1.0, 2.0], [40.0, 3.0], [9.9, -5.0]])
    report = QKClip(model, tau=10.0).apply([max_logits])
    after = heads_of(attention, x)
    torch.testing.assert_close(after.logits[0][0], before.logits[0][0] * 0.25, rtol=1e-12, atol=1e-12)
    assert torch.equal(after.logits[0][1], before.logits[0][1])
    assert torch.equal(after.values[0], before.values[0])
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in others.items())
    assert report.clipped_heads == 1
    assert report.max_logits_L.tolist() == pytest.approx([2.0, 40.0, 9.9])


@WITH_AND_WITHOUT_QUERY_LATENT
def test_clipping_equals_a_loop_over_heads(q_lora_rank):
    model, expected = small_model(q_lora_rank), small_model(q_lora_rank)
    max_logits = torch.tensor([[50.0, 2.0], [7.0, 30.0], [10.0, 11.0]])
    QKClip(model, tau=10.0).apply([max_logits - 5, max_logits, max_logits - 1])
    for layer, largest in zip(expected.decoder.layers, max_logits.tolist(), strict=True):
        attention = layer.attention
        query = attention.q_proj if q_lora_rank is None else attention.q_b_proj
        for head, logit in enumerate(largest):
            gamma = min(1.0, 10.0 / logit)
            query.weight.data[head * 12 : head * 12 + 8] *= gamma**0.5
            query.weight.data[head * 12 + 8 : head * 12 + 12] *= gamma
            attention.kv_b_proj.weight.data[head * 16 : head * 16 + 8] *= gamma**0.5
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("logit", [float("-inf"), float("inf"), float("nan"), -1e4, 0.0])
def test_heads_without_a_finite_excess_are_left_alone(logit):
    model, before = small_model(), small_model()
    report = QKClip(model, tau=10.0).apply([torch.full((3, 2), logit)])
    assert report.clipped_heads == 0
    for name, weight in before.named_parameters():
        assert torch.equal(model.get_parameter(name), weight)


def test_logits_of_the_measured_stream_end_at_tau():
    model = small_model()
    segments = Segments.from_lengths([20, 12])
    tokens = torch.randint(0, 64, (32,), generator=torch.Generator().manual_seed(0))

    def first_layer() -> torch.Tensor:
        output = model(tokens, segments.positions(), StreamKeys(segments, measure_logits=True))
        # Layers after the first see other inputs once the first has been clipped.
        return output.max_logits_LH[0]

    before = first_layer()
    tau = before.min().item() / 2
    QKClip(model, tau).apply([torch.stack([before] * 3)])
    torch.testing.assert_close(first_layer(), torch.full_like(before, tau), rtol=1e-5, atol=0)


def largest_logits_of_a_run(tau: float | None, steps: int = 60) -> list[float]:
    """Every step's largest logit while a model memorises noise at a learning rate far too large."""
    torch.manual_seed(0)
    model = small_model()
    optimiser = MuonClip(model, OptimizerConfig(muon_lr=0.1, adamw_lr=0.003, weight_decay=0.0))
    clip = QKClip(model, tau) if tau else None
    segments = Segments.from_lengths([32] * 4)
    tokens = torch.randint(0, small_config().bos_token_id, (128,))
    largest = []
    for _ in range(steps):
        output = model(tokens, segments.positions(), StreamKeys(segments, measure_logits=True))
        F.cross_entropy(model.logits(output.hidden_TD), tokens.roll(-1)).backward()
        optimiser.step()
        optimiser.zero_grad()
        if clip is not None:
            clip.apply([output.max_logits_LH])
        largest.append(output.max_logits_LH.max().item())
    return largest


@pytest.mark.slow
def test_a_run_that_explodes_its_logits_is_held_at_tau():
    """Held up to the growth of one step, which the clip, coming after it, has not seen."""
    assert max(largest_logits_of_a_run(tau=None)) > 40
    clipped = largest_logits_of_a_run(tau=10.0)
    assert max(clipped) < 15
    assert median(clipped[-20:]) < 12
