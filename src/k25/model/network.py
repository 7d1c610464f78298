"""K2.5 as a whole: vision features take the places of the placeholder tokens, then the decoder runs.

The stream is packed: tokens (T,), positions (T,) and a key reader that knows the segment boundaries. There is no batch
axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from k25.model.attention import KeyReader
from k25.model.config import K25Config
from k25.model.decoder import Decoder, DecoderOutput
from k25.model.vision import Grid, MoonViT3D, Projector


class K25Model(nn.Module):
    """Decoder, and where the configuration has one, vision tower and projector."""

    def __init__(self, config: K25Config) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config.text)
        self.vision_tower = MoonViT3D(config.vision) if config.vision else None
        self.projector = Projector(config.vision, config.text.hidden_size) if config.vision else None

    def vision_features(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Pixels (P, 3, patch, patch) and one (frames, rows, columns) per item -> features (O, hidden), items in order.

        Raises ValueError for a text-only model or grids that do not describe the patches.
        """
        if self.vision_tower is None or self.projector is None:
            raise ValueError("this model has no vision tower, so it cannot take images or videos")
        features: Tensor = self.projector(self.vision_tower(patches, grids))
        return features

    def embed(self, tokens_T: Tensor, vision_features: Tensor | None = None) -> Tensor:
        """Token embeddings (T, hidden), with the features (O, hidden) at the placeholder positions, in order.

        Raises ValueError unless there are exactly as many placeholders as features.
        """
        embeddings: Tensor = self.decoder.embedding(tokens_T)
        if vision_features is None:
            return embeddings
        places = (tokens_T == self.config.media_placeholder_token_id).nonzero()[:, 0]
        if len(places) != len(vision_features):
            raise ValueError(
                f"the stream has {len(places)} media placeholders for {len(vision_features)} vision features"
            )
        return embeddings.index_copy(0, places, vision_features.to(embeddings.dtype))

    def forward(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        keys: KeyReader,
        vision_features: Tensor | None = None,
        experts_TMK: Tensor | None = None,
    ) -> DecoderOutput:
        """Hidden states of the stream and what the pass measured; `logits` turns hidden states into scores.

        experts: choices that the routers are given; see `Decoder`.
        """
        output: DecoderOutput = self.decoder(self.embed(tokens_T, vision_features), positions_T, keys, experts_TMK)
        return output

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores over the vocabulary (T, vocab) of final hidden states (T, hidden)."""
        scores: Tensor = self.decoder.head(hidden_TD)
        return scores


def parameter_counts(config: K25Config) -> tuple[int, int]:
    """Total parameters, selection biases included, and those active per text token (embeddings and head counted)."""
    with torch.device("meta"):
        model = K25Model(config)
    total = sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])
    text = config.text
    expert = 3 * text.hidden_size * text.moe_intermediate_size
    idle = (text.n_routed_experts - text.num_experts_per_tok) * expert * text.num_moe_layers
    language = sum(tensor.numel() for tensor in [*model.decoder.parameters(), *model.decoder.buffers()])
    return total, language - idle
