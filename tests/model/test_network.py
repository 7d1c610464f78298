"""The whole network: counts, packing, caches, splicing, gradients, compilation."""

import pytest
import torch
import torch.nn.functional as F
from model_builders import patches_for, text_stream, tiny_config, tiny_model

from k25.errors import InputError
from k25.model import (
    CachedKeys,
    K25Model,
    LatentCache,
    Segments,
    StreamKeys,
    TextConfig,
    initialise,
    parameter_counts,
    preset,
)

VARIANTS = [
    pytest.param(24, True, id="query latent, YaRN"),
    pytest.param(24, False, id="query latent, plain rotary"),
    pytest.param(None, True, id="one query projection, YaRN"),
    pytest.param(None, False, id="one query projection, plain rotary"),
]


def logits_of(model, tokens, segments):
    return model.logits(model(tokens, segments.positions(), StreamKeys(segments)).hidden_TD)


def test_k25_has_the_published_number_of_parameters():
    assert parameter_counts(preset("k2.5")) == (1_026_879_376_368, 32_861_500_928)


@pytest.mark.parametrize(("name", "total", "active"), [("moonlight-16b-a3b", 16e9, 3e9), ("kimi-vl-a3b", 16.4e9, 3e9)])
def test_relatives_have_about_their_advertised_size(name, total, active):
    counted_total, counted_active = parameter_counts(preset(name))
    assert counted_total == pytest.approx(total, rel=0.01)
    assert counted_active == pytest.approx(active, rel=0.05)


def test_segments_in_one_stream_equal_each_alone():
    model = tiny_model()
    lengths = [7, 1, 40, 13]
    tokens, segments = text_stream(lengths)
    together = logits_of(model, tokens, segments)
    alone = [logits_of(model, part, Segments.from_lengths([len(part)])) for part in tokens.split(lengths)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("q_lora_rank", "yarn"), VARIANTS)
@pytest.mark.parametrize("absorbed", [True, False])
@torch.no_grad()
def test_decoding_over_the_latent_cache_equals_one_full_pass(q_lora_rank, yarn, absorbed):
    model = tiny_model(tiny_config(q_lora_rank, yarn))
    lengths, chunks = [9, 5, 12], [[4, 3, 2], [5, 0, 0], [10, 1, 1]]
    tokens, segments = text_stream(lengths)
    reference = logits_of(model, tokens, segments).split(lengths)
    cache = LatentCache(model.config.text, slots=40, dtype=torch.float32)
    tables = torch.randperm(40)[: sum(lengths)].split(lengths)  # any slots in any order
    done = [0, 0, 0]
    for step in zip(*chunks, strict=True):
        ends = [start + new for start, new in zip(done, step, strict=True)]
        view = cache.view([table[:end] for table, end in zip(tables, ends, strict=True)], step)
        stream = torch.cat([part[a:b] for part, a, b in zip(tokens.split(lengths), done, ends, strict=True)])
        out = model.logits(model(stream, view.positions(), CachedKeys(view, absorbed)).hidden_TD)
        expected = torch.cat([part[a:b] for part, a, b in zip(reference, done, ends, strict=True)])
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        done = ends


def test_the_latent_cache_holds_nothing_but_latents_and_rotated_keys():
    cache = LatentCache(preset("k2.5").text, slots=1, dtype=torch.bfloat16, device="meta")
    assert cache.latents.numel() * 2 == 70_272


def test_vision_features_replace_the_placeholders_in_order():
    model = tiny_model()
    pad = model.config.media_placeholder_token_id
    tokens = torch.tensor([1, pad, pad, 2, pad])
    features = torch.randn(3, 64)
    embeddings = model.embed(tokens, features)
    assert torch.equal(embeddings[[1, 2, 4]], features)
    assert torch.equal(embeddings[[0, 3]], model.decoder.embedding(tokens[[0, 3]]))


def test_placeholders_and_features_must_be_equally_many():
    model = tiny_model()
    tokens = torch.tensor([1, model.config.media_placeholder_token_id])
    with pytest.raises(ValueError, match="1 media placeholders for 2 vision features"):
        model.embed(tokens, torch.zeros(2, 64))


def test_a_text_model_refuses_pictures():
    model = tiny_model(tiny_config(vision=False))
    with pytest.raises(ValueError, match="no vision tower"):
        model.vision_features(patches_for([(1, 2, 2)]), [(1, 2, 2)])


def mixed_loss(model):
    """Text, an image and two video chunks in one stream of two segments."""
    pad = model.config.media_placeholder_token_id
    grids = [(1, 4, 4), (4, 2, 4), (2, 2, 4)]
    dtype = model.decoder.head.weight.dtype
    features = model.vision_features(patches_for(grids).to(dtype), grids)
    tokens = torch.tensor([1, *[pad] * 4, 2, 3, 4, 5, 6, *[pad] * 2, 7, *[pad] * 2, 8, 9])
    segments = Segments.from_lengths([8, len(tokens) - 8])
    hidden = model(tokens, segments.positions(), StreamKeys(segments), features).hidden_TD
    return F.cross_entropy(model.logits(hidden), tokens.roll(-1))


def test_every_parameter_receives_a_gradient_on_a_mixed_batch():
    model = tiny_model()
    # With as many experts chosen as exist, none can be idle by chance.
    for layer in model.decoder.layers[1:]:
        layer.ffn.router.experts_per_token = 8
    mixed_loss(model).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    model = tiny_model().double()
    mixed_loss(model).backward()
    generator = torch.Generator().manual_seed(3)
    step = 1e-6
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        slope = (parameter.grad * direction).sum().item()
        with torch.no_grad():
            parameter += step * direction
            above = mixed_loss(model).item()
            parameter -= 2 * step * direction
            below = mixed_loss(model).item()
            parameter += step * direction
        assert slope == pytest.approx((above - below) / (2 * step), rel=2e-3, abs=1e-6), name


def test_statistics_come_out_of_the_pass_as_data():
    model = tiny_model()
    tokens, segments = text_stream([10, 6])
    output = model(tokens, segments.positions(), StreamKeys(segments, measure_logits=True))
    assert output.tokens_per_expert_ME.shape == (2, 8)
    assert output.tokens_per_expert_ME.sum(1).tolist() == [16 * 3] * 2
    assert output.max_logits_LH.shape == (3, 4)
    assert model(tokens, segments.positions(), StreamKeys(segments)).max_logits_LH is None


def test_same_seed_same_weights():
    first, second = (K25Model(tiny_config()) for _ in range(2))
    initialise(first, 5)
    initialise(second, 5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    initialise(second, 6)
    assert not torch.equal(first.decoder.head.weight, second.decoder.head.weight)


@pytest.mark.slow
def test_the_text_stack_compiles_without_graph_breaks():
    model = tiny_model()
    compiled = torch.compile(model.decoder, fullgraph=True)
    tokens, segments = text_stream([20, 12])
    embeddings = model.embed(tokens).detach()
    keys = StreamKeys(segments, measure_logits=True)
    eager = model.decoder(embeddings, segments.positions(), keys)
    output = compiled(embeddings, segments.positions(), keys)
    torch.testing.assert_close(output.hidden_TD, eager.hidden_TD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.max_logits_LH, eager.max_logits_LH)
    parameters = list(model.decoder.parameters())
    expected = torch.autograd.grad(eager.hidden_TD.square().sum(), parameters, allow_unused=True)
    gradients = torch.autograd.grad(output.hidden_TD.square().sum(), parameters, allow_unused=True)
    for ours, theirs in zip(gradients, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"qk_rope_head_dim": 7}, "even"),
        ({"v_head_dim": 30}, "v_head_dim"),
        ({"hidden_size": 60}, "multiples of 8"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace"),
    ],
)
def test_contradictory_sizes_are_named(changes, message):
    sizes = {field: getattr(tiny_config().text, field) for field in TextConfig.__dataclass_fields__}
    with pytest.raises(InputError, match=message):
        TextConfig(**{**sizes, **changes})


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="nano"):
        preset("nanno")
