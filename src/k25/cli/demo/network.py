"""The demonstration's forward pass: text, a picture and a video in one stream, materialised and absorbed."""

import json

import torch

from k25.chat import Tokenizer, VideoChunk, parse_messages, parse_tools, render
from k25.checkpoint import load_model
from k25.cli.demo import checkpoint, prompt
from k25.cli.demo.course import Measured, Place, StageFailed
from k25.media import ImageInput, MediaProcessor, VideoCount, VideoInput, open_path
from k25.model import CachedKeys, K25Model, LatentCache, Segments, StreamKeys


@torch.no_grad()
def show(place: Place) -> Measured:
    """Run the prompt once as a whole and once token by token over the latent cache; the logits must agree."""
    console, out = place.console, place.out
    model = load_model(out / checkpoint.FOLDER, dtype=torch.float32)
    batch = MediaProcessor()([ImageInput(open_path(out / prompt.PICTURE)), VideoInput(open_path(out / prompt.VIDEO))])
    image, video = batch.counts
    assert isinstance(video, VideoCount)
    chunks = [VideoChunk(chunk.timestamp, video.plan.frame.tokens) for chunk in video.plan.chunks]
    conversation = json.loads((out / prompt.CONVERSATION).read_text(encoding="utf-8"))
    rendering = render(parse_messages(conversation["messages"]), parse_tools(conversation["tools"]))
    tokenizer = Tokenizer.from_file(out / checkpoint.FOLDER)
    tokens = torch.tensor(rendering.expand_media([image.tokens], [chunks]).token_ids(tokenizer))
    grids = [(int(t), int(h), int(w)) for t, h, w in batch.grid_thws]
    features = model.vision_features(torch.from_numpy(batch.pixel_values), grids)
    console.print(
        f"{len(tokens)} tokens, {len(features)} of them seen: {len(grids)} items of {len(batch.pixel_values)} patches."
    )

    segments = Segments.from_lengths([len(tokens)])
    keys = StreamKeys(segments, measure_logits=True)
    whole = model(tokens, segments.positions(), keys, features)
    stepped = _token_by_token(model, tokens, features)
    difference = (model.logits(whole.hidden_TD) - model.logits(stepped)).abs().max().item()
    assert whole.max_logits_LH is not None
    console.print("materialised: one pass over the stream; absorbed: token by token over the latent cache.")
    console.print(f"largest difference of any logit: {difference:.1e}")
    console.print(f"largest attention logit of any head: {whole.max_logits_LH.max().item():.2f}")
    loads = whole.tokens_per_expert_ME.max(1).values / whole.tokens_per_expert_ME.float().mean(1)
    console.print(f"busiest expert over the mean, per layer: {', '.join(f'{load:.1f}' for load in loads.tolist())}")
    if difference > 1e-3:
        raise StageFailed("the two forms of attention disagree")
    return {}


def _token_by_token(model: K25Model, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    config = model.config
    cache = LatentCache(config.text, len(tokens), torch.float32)
    slots = torch.arange(len(tokens))
    seen = (tokens == config.media_placeholder_token_id).cumsum(0)
    hidden = []
    for position in range(len(tokens)):
        view = cache.view([slots[: position + 1]], [1])
        is_media = tokens[position] == config.media_placeholder_token_id
        feature = features[seen[position] - 1][None] if is_media else None
        step = model(tokens[position : position + 1], view.positions(), CachedKeys(view, absorbed=True), feature)
        hidden.append(step.hidden_TD)
    return torch.cat(hidden)
