"""The text model: pre-norm layers of latent attention and feed-forward networks, a final norm, an untied head.

h = x + MLA(RMS(x));  y = h + FFN(RMS(h)).  The FFN is a dense SwiGLU in the first layers and a mixture of experts after
them (Kimi K2, arXiv 2507.20534, section 2.3).

Shape suffixes: T tokens, D hidden, E experts, K experts per token, H heads, L layers, M mixture layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from k25.model.attention import KeyReader, MultiHeadLatentAttention
from k25.model.config import TextConfig
from k25.model.experts import SwiGLU
from k25.model.mixture import MixtureOfExperts
from k25.model.normalisation import RMSNorm
from k25.model.rotary import rotary_table


@dataclass(frozen=True)
class LayerOutput:
    """One layer's hidden states (T, D) and what it measured on the way."""

    hidden_TD: Tensor
    tokens_per_expert_E: Tensor | None
    chosen_TK: Tensor | None
    max_logits_H: Tensor | None


@dataclass(frozen=True)
class DecoderOutput:
    """Final-norm hidden states (T, D), and data about the pass.

    `tokens_per_expert` (M, E) int64 counts this stream's tokens in every mixture layer; `chosen` are the experts (T, K)
    int64 that each of the M routers chose itself; `max_logits` (L, H) float32 holds the largest attention logit of
    every head, None unless the key reader measures it.
    """

    hidden_TD: Tensor
    tokens_per_expert_ME: Tensor
    chosen: tuple[Tensor, ...]
    max_logits_LH: Tensor | None


class DecoderLayer(nn.Module):
    """One layer: attention, then a dense network or a mixture of experts."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = MultiHeadLatentAttention(config, layer)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn: SwiGLU | MixtureOfExperts
        if layer < config.first_k_dense_replace:
            self.ffn = SwiGLU(config.hidden_size, config.intermediate_size)
        else:
            self.ffn = MixtureOfExperts(config)

    def forward(
        self, x_TD: Tensor, rotations: Tensor, keys: KeyReader, experts_TK: Tensor | None = None
    ) -> LayerOutput:
        """Apply the layer to a packed stream; `experts` as a `Router` may be given them."""
        attended_TD, max_logits = self.attention(self.attention_norm(x_TD), rotations, keys)
        hidden_TD = x_TD + attended_TD
        normed_TD = self.ffn_norm(hidden_TD)
        if isinstance(self.ffn, MixtureOfExperts):
            out_TD, tokens_per_expert, chosen_TK = self.ffn(normed_TD, experts_TK)
            return LayerOutput(hidden_TD + out_TD, tokens_per_expert, chosen_TK, max_logits)
        return LayerOutput(hidden_TD + self.ffn(normed_TD), None, None, max_logits)


class Decoder(nn.Module):
    """Embedding table, layers, final norm and head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, embeddings_TD: Tensor, positions_T: Tensor, keys: KeyReader, experts_TMK: Tensor | None = None
    ) -> DecoderOutput:
        """Run a packed stream of embeddings; `positions` (T,) count within each segment.

        experts: choices (T, M, K) that the routers are given, as in `Router`.
        """
        rotations = rotary_table(self.config, positions_T)
        dense = self.config.first_k_dense_replace
        hidden_TD, loads, chosen, logits = embeddings_TD, [], [], []
        for number, layer in enumerate(self.layers):
            experts_TK = None if experts_TMK is None or number < dense else experts_TMK[:, number - dense]
            output: LayerOutput = layer(hidden_TD, rotations, keys, experts_TK)
            hidden_TD = output.hidden_TD
            if output.tokens_per_expert_E is not None and output.chosen_TK is not None:
                loads.append(output.tokens_per_expert_E)
                chosen.append(output.chosen_TK)
            if output.max_logits_H is not None:
                logits.append(output.max_logits_H)
        no_load = positions_T.new_zeros((0, self.config.n_routed_experts))
        return DecoderOutput(
            hidden_TD=self.norm(hidden_TD),
            tokens_per_expert_ME=torch.stack(loads) if loads else no_load,
            chosen=tuple(chosen),
            max_logits_LH=torch.stack(logits) if logits else None,
        )
