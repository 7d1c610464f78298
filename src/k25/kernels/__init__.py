"""Small compiled CPU kernels for decode (1 to about 64 token rows), each with its torch equivalent.

    from k25 import kernels

    kernels.available()                         -> Availability(variant="amx_bf16", variants=(...), reason="...")

    project = kernels.PackedLinear.from_bf16(weight_OI)               # or .from_int4(words, scale)
    y_TO = project(x_TI)
    up = kernels.PackedHeads.from_bf16(weight_HOI)
    y_THO = up(x_THI)                                                 # any strides but a dense last axis
    experts = kernels.PackedNetworks.from_bf16(gate_up_E2FD, down_EDF)   # or .from_int4(...)
    shared = kernels.PackedNetworks.from_bf16(gate_up_12FD, down_1DF)
    mixture = kernels.PackedMixture(experts, shared)                  # a dense layer: PackedMixture(None, shared)
    y_TD = mixture(x_TD, weights_TK, experts_TK)                      # a dense layer: mixture(x_TD)
    out_THC = kernels.latent_attention(query_THB, cache, tables_TP, lengths_T, kv_lora_rank, scale)

    normed = kernels.rms_norm(x_TD, gain, eps); kernels.add_rms_norm(x_TD, delta, gain, eps)      # float32
    weights, experts = kernels.route(logits_TE, bias_E, experts_per_token, scaling)
    absorbed = up(query_THN, spare=R)                                 # room for the rotated part of the query
    kernels.rotate_and_store(absorbed, query_THQ, latent_TB, gain_C, eps, rotations, cache_SB, slots_T)
    columns, values = kernels.best(scores_TV); kernels.log_sum_exp(scores_TV)                         # float32
    step = kernels.DecoderStep(layers, last_norm, head, rotations, nope_width, scale)   # all of these in one
    scores_RV, experts_MTK = step(x_TD, positions_T, tables_TP, rows_R, latents_LSB, page_size)
    kernels.empty(shape, dtype)                                       # memory on huge pages, for a cache

Weights are bfloat16, kept in 12 bits each to the bit, or INT4 in the release's layout; activations bfloat16 or float32,
and results in their dtype. Sums are float32. Where the CPU multiplies bfloat16 (variants amx_bf16, avx512_bf16),
float32 activations are rounded to it on entering a product that is not asked to be exact, and queries where the cache
is bfloat16. A result row is the same bits whichever rows are computed with it. There are no gradients. The kernels are
compiled on first use (about a minute of one core, kept in the user's cache); `python -m k25.kernels` does it ahead of
time. Without a compiler everything runs on torch, and the reason is logged once. `use(variant)` forces an instruction
set, or "torch".
"""

from k25.kernels.attention import latent_attention
from k25.kernels.decoder import DecoderStep, LayerWeights, NormWeights, RouterWeights
from k25.kernels.memory import empty
from k25.kernels.mixture import PackedMixture, PackedNetworks
from k25.kernels.packed import PackedHeads, PackedLinear, PackedStack
from k25.kernels.steps import add_rms_norm, best, log_sum_exp, rms_norm, rotate_and_store, route
from k25.kernels.variants import Availability, available, use

__all__ = [
    "Availability",
    "DecoderStep",
    "LayerWeights",
    "NormWeights",
    "PackedHeads",
    "PackedLinear",
    "PackedMixture",
    "PackedNetworks",
    "PackedStack",
    "RouterWeights",
    "add_rms_norm",
    "available",
    "best",
    "empty",
    "latent_attention",
    "log_sum_exp",
    "rms_norm",
    "rotate_and_store",
    "route",
    "use",
]
