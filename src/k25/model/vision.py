"""MoonViT-3D: images and four-frame video chunks at native resolution, packed end to end (arXiv 2602.02276, 4.1).

All patches of one item, across its frames, attend to each other and to nothing else. Frames are then averaged and 2x2
neighbours grouped, so an item of grid (t, h, w) becomes h/2 * w/2 tokens whatever t is.

Shape suffixes: P patches of all items, D hidden, H heads, W head width, O output tokens.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k25.model.config import VisionConfig
from k25.model.packed_attention import Segments, packed_attention
from k25.model.precision import at_least_float32
from k25.model.rotary import rotate, rotations

_ROTARY_THETA = 10_000.0
_NORM_EPS = 1e-5

# (frames, rows, columns) of an item, in patches.
Grid = tuple[int, int, int]


def output_tokens(grid: Grid, merge: tuple[int, int]) -> int:
    """Tokens that an item of this grid becomes."""
    return (grid[1] // merge[0]) * (grid[2] // merge[1])


def temporal_table(frames: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed embedding of frame j: (frames, width) fp32, sin(j w_k) for all k, then cos; w_k = 10000^(-2k / width)."""
    frequencies = _ROTARY_THETA ** -(torch.arange(width // 2, dtype=torch.float32, device=device) / (width / 2))
    angles = torch.arange(frames, dtype=torch.float32, device=device)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def rotary_frequencies_2d(head_width: int, device: torch.device | None = None) -> Tensor:
    """Angle per patch step: (head_width / 4,) float32; pair 2k turns with the column, pair 2k + 1 with the row."""
    exponents = torch.arange(0, head_width, 4, dtype=torch.float32, device=device) / head_width
    return _ROTARY_THETA**-exponents


def rotary_table_2d(grids: Sequence[Grid], head_width: int, device: torch.device | None = None) -> Tensor:
    """Rotations (P, head_width / 2), complex64, of every patch in frame, row, column order."""
    frequencies = rotary_frequencies_2d(head_width, device)
    angles = []
    for frames, rows, columns in grids:
        column_angles = torch.arange(columns, device=device)[:, None] * frequencies
        row_angles = torch.arange(rows, device=device)[:, None] * frequencies
        pairs = torch.stack((column_angles.expand(rows, -1, -1), row_angles[:, None].expand(-1, columns, -1)), dim=-1)
        angles.append(pairs.reshape(1, rows * columns, -1).expand(frames, -1, -1).flatten(0, 1))
    return rotations(torch.cat(angles))


class PatchEmbedding(nn.Module):
    """Flattened patches to vectors, plus learned 2-D positions resized to each grid, plus the fixed frame embedding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.patch_width, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(config.pos_emb_height, config.pos_emb_width, config.hidden_size))

    def forward(self, patches_PX: Tensor, grids: Sequence[Grid]) -> Tensor:
        """(P, 3 * patch * patch) -> (P, D)."""
        by_size = {(rows, columns): self._resized(rows, columns) for _, rows, columns in grids}
        offsets = []
        for frames, rows, columns in grids:
            offset = by_size[rows, columns].expand(frames, -1, -1)
            if frames > 1:
                # A single frame gets no time at all, not even that of frame 0.
                offset = offset + temporal_table(frames, offset.shape[-1], offset.device).to(offset.dtype)[:, None]
            offsets.append(offset.flatten(0, 1))
        return self.projection(patches_PX) + torch.cat(offsets)

    def _resized(self, rows: int, columns: int) -> Tensor:
        """(rows * columns, D): the table at its own size, else resized: bicubic, a = -0.75, no antialiasing; fp32."""
        if (rows, columns) == self.positions.shape[:2]:
            return self.positions.flatten(0, 1)
        image = at_least_float32(self.positions).permute(2, 0, 1)[None]
        resized = F.interpolate(image, (rows, columns), mode="bicubic", align_corners=False)
        return resized[0].flatten(1).T.to(self.positions.dtype)


class VisionBlock(nn.Module):
    """Pre-norm attention over one item, then a tanh-GELU network; all linear maps have biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, x_PD: Tensor, rotations: Tensor, segments: Segments) -> Tensor:
        """(P, D) -> (P, D)."""
        query_key, value_PHW = (
            self.qkv(self.attention_norm(x_PD)).unflatten(-1, (3, self.heads, -1)).split((2, 1), dim=1)
        )
        query_PHW, key_PHW = rotate(query_key, rotations).unbind(1)
        scale = 1 / math.sqrt(query_PHW.shape[-1])
        attended = packed_attention(query_PHW, key_PHW, value_PHW[:, 0], segments, scale=scale, causal=False)
        x_PD = x_PD + self.output(attended.flatten(1))
        return x_PD + self.down(F.gelu(self.up(self.ffn_norm(x_PD)), approximate="tanh"))


class MoonViT3D(nn.Module):
    """Patches of many items in, merged vectors out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=_NORM_EPS)

    def forward(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Pixels (P, 3, patch, patch) in frame, row, column order -> (O, merge block, D), items in order.

        Raises ValueError where the grids do not describe the patches.
        """
        self._check(patches, grids)
        x_PD = self.patch_embedding(patches.flatten(1).to(self.patch_embedding.projection.weight.dtype), grids)
        table = rotary_table_2d(grids, self.config.head_dim, x_PD.device)
        segments = Segments.from_lengths([math.prod(grid) for grid in grids], x_PD.device)
        for block in self.blocks:
            x_PD = block(x_PD, table, segments)
        return self._merge(self.norm(x_PD), grids)

    def _check(self, patches: Tensor, grids: Sequence[Grid]) -> None:
        merge_rows, merge_columns = self.config.merge_kernel_size
        for frames, rows, columns in grids:
            if (
                not 1 <= frames <= self.config.pos_emb_time
                or rows % merge_rows
                or columns % merge_columns
                or not rows * columns
            ):
                raise ValueError(
                    f"grid {(frames, rows, columns)} must have 1 to {self.config.pos_emb_time} frames "
                    f"and sides that are multiples of {self.config.merge_kernel_size}"
                )
        expected = (sum(math.prod(grid) for grid in grids), 3, self.config.patch_size, self.config.patch_size)
        if patches.shape != expected:
            raise ValueError(f"patches have shape {tuple(patches.shape)}, but grids {list(grids)} need {expected}")

    def _merge(self, x_PD: Tensor, grids: Sequence[Grid]) -> Tensor:
        merge_rows, merge_columns = self.config.merge_kernel_size
        merged = []
        for item, (frames, rows, columns) in zip(x_PD.split([math.prod(g) for g in grids]), grids, strict=True):
            mean = item.unflatten(0, (frames, rows, columns)).mean(0)
            blocks = mean.view(rows // merge_rows, merge_rows, columns // merge_columns, merge_columns, -1)
            merged.append(blocks.transpose(1, 2).reshape(-1, merge_rows * merge_columns, x_PD.shape[-1]))
        return torch.cat(merged)


class Projector(nn.Module):
    """Merged vision vectors to the decoder's width: norm, concatenate, linear, exact (erf) GELU, linear."""

    def __init__(self, config: VisionConfig, text_hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.projector_ln_eps)
        self.up = nn.Linear(config.merged_width, config.merged_width)
        self.down = nn.Linear(config.merged_width, text_hidden_size)

    def forward(self, merged: Tensor) -> Tensor:
        """(O, merge block, D) -> (O, text hidden)."""
        return self.down(F.gelu(self.up(self.norm(merged).flatten(1))))
