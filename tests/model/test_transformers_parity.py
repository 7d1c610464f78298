"""The same weights give the same numbers in transformers' own implementation of the architecture.

Weights travel as checkpoints that we write and transformers reads, and as the state of a transformers model that we
read.
"""

import pytest
import torch
from model_builders import patches_for, text_stream, tiny_config, tiny_model
from safetensors.torch import save_file
from transformers import DeepseekV3ForCausalLM, Kimi_K25ForConditionalGeneration

from k25.checkpoint import load_model, save_model
from k25.model import CachedKeys, LatentCache, Segments, StreamKeys, output_tokens

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CONFIGS = [
    pytest.param(tiny_config(q_lora_rank, yarn, vision), id=f"{query}, {rotary}, {kind}")
    for q_lora_rank, query in ((24, "query latent"), (None, "one query projection"))
    for yarn, rotary in ((True, "YaRN"), (False, "plain rotary"))
    for vision, kind in ((True, "with vision"), (False, "text only"))
]


def in_transformers(model, folder):
    save_model(model, folder)
    kind = Kimi_K25ForConditionalGeneration if model.config.vision else DeepseekV3ForCausalLM
    dtype = model.decoder.head.weight.dtype
    return kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def back_from_transformers(peer, folder):
    folder.mkdir()
    peer.config.save_pretrained(folder)
    state = {name: tensor.contiguous().clone() for name, tensor in peer.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return load_model(folder)


def our_logits(model, tokens, segments, features=None):
    return model.logits(model(tokens, segments.positions(), StreamKeys(segments), features).hidden_TD)


def cached_logits(model, tokens, lengths):
    """Absorbed decoding, a first part and then the rest."""
    cache = LatentCache(model.config.text, len(tokens), torch.float32)
    tables = torch.arange(len(tokens)).split(lengths)
    firsts = [(length + 1) // 2 for length in lengths]
    view = cache.view([table[:first] for table, first in zip(tables, firsts, strict=True)], firsts)
    parts = tokens.split(lengths)
    start = torch.cat([part[:first] for part, first in zip(parts, firsts, strict=True)])
    before = model(start, view.positions(), CachedKeys(view, absorbed=True)).hidden_TD.split(firsts)
    rests = [length - first for length, first in zip(lengths, firsts, strict=True)]
    view = cache.view(tables, rests)
    rest = torch.cat([part[first:] for part, first in zip(parts, firsts, strict=True)])
    after = model(rest, view.positions(), CachedKeys(view, absorbed=True)).hidden_TD.split(rests)
    return model.logits(torch.cat([half for pair in zip(before, after, strict=True) for half in pair]))


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS)
def test_text_logits_equal_transformers(config, tmp_path):
    model = tiny_model(config)
    peer = in_transformers(model, tmp_path / "ours")
    lengths = [23, 1, 90]
    tokens, segments = text_stream(lengths)
    reference = torch.cat([peer(input_ids=part[None]).logits[0] for part in tokens.split(lengths)])
    torch.testing.assert_close(our_logits(model, tokens, segments), reference, **CLOSE)
    torch.testing.assert_close(cached_logits(model, tokens, lengths), reference, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("vision", [True, False])
def test_a_model_born_in_transformers_gives_its_logits_here(vision, tmp_path):
    torch.manual_seed(4)
    peer = in_transformers(tiny_model(tiny_config(vision=vision)), tmp_path / "sizes")
    for parameter in peer.parameters():
        parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.15)
    model = back_from_transformers(peer, tmp_path / "theirs")
    tokens, segments = text_stream([40])
    reference = peer(input_ids=tokens[None]).logits[0]
    torch.testing.assert_close(our_logits(model, tokens, segments), reference, **CLOSE)


def their_features(peer, patches, grid):
    """Tower and projector by hand: transformers 5.23 cuts the features of several frames wrongly afterwards."""
    merged = peer.model.vision_tower(patches, grid_thw=torch.tensor([grid])).pooler_output
    return peer.model.mm_projector(merged)[:, 0]


GRIDS = [(1, 2, 2), (1, 4, 10), (1, 8, 8), (1, 12, 2), (2, 4, 6), (3, 2, 8), (4, 6, 4)]


@torch.no_grad()
@pytest.mark.parametrize("grid", GRIDS)
def test_vision_features_of_every_item_equal_transformers(grid, tmp_path):
    model = tiny_model()
    peer = in_transformers(model, tmp_path / "ours")
    patches = patches_for([grid])
    torch.testing.assert_close(model.vision_features(patches, [grid]), their_features(peer, patches, grid), **CLOSE)


def video_grids(frames, rows=4, columns=6):
    """Chunks of four frames; the last may be shorter."""
    return [(min(4, frames - start), rows, columns) for start in range(0, frames, 4)]


@torch.no_grad()
@pytest.mark.parametrize("frames", range(1, 10))
def test_videos_of_one_to_nine_frames_give_transformers_logits(frames, tmp_path):
    model = tiny_model()
    peer = in_transformers(model, tmp_path / "ours")
    grids = video_grids(frames)
    patches = patches_for(grids)
    parts = patches.split([t * h * w for t, h, w in grids])
    # transformers cannot mix frame counts in one call, so its features are made item by item and handed to its decoder.
    alone = [their_features(peer, part, grid) for part, grid in zip(parts, grids, strict=True)]
    tokens = stream_with_media(model, grids)
    embeddings = peer.get_input_embeddings()(tokens)
    embeddings[tokens == model.config.media_placeholder_token_id] = torch.cat(alone)
    reference = peer(inputs_embeds=embeddings[None]).logits[0]
    segments = Segments.from_lengths([len(tokens)])
    ours = our_logits(model, tokens, segments, model.vision_features(patches, grids))
    torch.testing.assert_close(ours, reference, **CLOSE)


def stream_with_media(model, grids):
    pad = model.config.media_placeholder_token_id
    pieces = [[5, *[pad] * output_tokens(grid, (2, 2)), 6] for grid in grids]
    return torch.tensor([1, 2, *[token for piece in pieces for token in piece], 3, 4])


@torch.no_grad()
def test_several_images_in_one_prompt_equal_transformers_whole_pass(tmp_path):
    model = tiny_model()
    peer = in_transformers(model, tmp_path / "ours")
    grids = [grid for grid in GRIDS if grid[0] == 1]
    patches = patches_for(grids)
    tokens = stream_with_media(model, grids)
    reference = peer(input_ids=tokens[None], pixel_values=patches, image_grid_thw=torch.tensor(grids)).logits[0]
    segments = Segments.from_lengths([len(tokens)])
    ours = our_logits(model, tokens, segments, model.vision_features(patches, grids))
    torch.testing.assert_close(ours, reference, **CLOSE)


@torch.no_grad()
def test_bfloat16_strays_no_further_from_float32_than_transformers_does(tmp_path):
    exact = tiny_model()
    tokens, segments = text_stream([200])
    grids = [(1, 8, 6), (1, 4, 10)]
    patches = patches_for(grids)
    reference = our_logits(exact, tokens, segments)
    features = exact.vision_features(patches, grids)

    rounded = tiny_model().to(torch.bfloat16)
    peer = in_transformers(rounded, tmp_path / "ours")
    ours = our_logits(rounded, tokens, segments).float()
    theirs = peer(input_ids=tokens[None]).logits[0].float()
    assert (ours - reference).abs().mean() <= 1.1 * (theirs - reference).abs().mean()
    assert (ours - reference).abs().mean() <= 0.03 * reference.abs().mean()

    our_features = rounded.vision_features(patches, grids).float()
    parts = patches.bfloat16().split([t * h * w for t, h, w in grids])
    theirs = torch.cat([their_features(peer, part, grid) for part, grid in zip(parts, grids, strict=True)]).float()
    assert (our_features - features).abs().mean() <= 1.1 * (theirs - features).abs().mean()
