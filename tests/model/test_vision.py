"""The vision tower's tables against published figures, and its promises about packing and time."""

import pytest
import torch
from model_builders import patches_for, tiny_model

from k25.model import VisionConfig
from k25.model.vision import PatchEmbedding, output_tokens, rotary_frequencies_2d, rotary_table_2d, temporal_table

# fmt: off
RELEASED_FREQUENCIES = [
    1, 0.59948425, 0.359381366, 0.215443469, 0.129154967, 0.0774263683, 0.0464158883, 0.027825594, 0.0166810054, 0.01,
    0.0059948425, 0.00359381366, 0.00215443469, 0.00129154967, 0.000774263683, 0.000464158883, 0.00027825594,
    0.000166810054,
]
# fmt: on


def test_released_rotary_frequencies():
    torch.testing.assert_close(rotary_frequencies_2d(72), torch.tensor(RELEASED_FREQUENCIES), rtol=1e-5, atol=0)


def test_even_pairs_turn_with_the_column_and_odd_pairs_with_the_row():
    table = rotary_table_2d([(1, 2, 3)], 8)
    row, column = 1, 2
    angles = torch.stack([column * rotary_frequencies_2d(8), row * rotary_frequencies_2d(8)], dim=-1).flatten()
    torch.testing.assert_close(table[row * 3 + column], torch.complex(angles.cos(), angles.sin()))


def test_frames_share_their_angles():
    frames = rotary_table_2d([(3, 2, 4)], 8).view(3, 8, -1)
    assert torch.equal(frames[0], frames[2])


def test_released_temporal_table():
    table = temporal_table(2, 1152)
    assert torch.equal(table[0], torch.cat((torch.zeros(576), torch.ones(576))))
    golden = {0: 0.84147098, 1: 0.83279465, 575: 0.000101611870, 576: 0.54030231, 1151: 0.9999999948}
    for index, value in golden.items():
        assert table[1, index].item() == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (2, 3, [1.75115788, 3.125, 4.49884367, 10.50115967, 11.875, 13.24884510]),
        (6, 5, [-0.40797243, 0.26352829, 1.15277791, 2.04202795, 2.71352816]),
    ],
)
def test_position_table_is_resized_bicubically(rows, columns, expected):
    config = VisionConfig(
        hidden_size=4,
        intermediate_size=8,
        num_attention_heads=1,
        num_hidden_layers=1,
        pos_emb_height=4,
        pos_emb_width=4,
    )
    embedding = PatchEmbedding(config)
    embedding.positions.data = torch.arange(16.0).view(4, 4, 1).expand(4, 4, 4).contiguous()
    resized = embedding._resized(rows, columns)[: len(expected), 0]
    torch.testing.assert_close(resized, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_packed_items_equal_each_item_alone():
    model = tiny_model()
    grids = [(1, 4, 6), (3, 2, 2), (4, 6, 4), (1, 8, 6), (1, 2, 10)]
    patches = patches_for(grids)
    together = model.vision_features(patches, grids)
    alone = [
        model.vision_features(part, [grid])
        for part, grid in zip(patches.split([t * h * w for t, h, w in grids]), grids, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_tokens_of_an_item_do_not_depend_on_its_frames():
    model = tiny_model()
    for frames in (1, 2, 3, 4):
        grid = (frames, 4, 6)
        features = model.vision_features(patches_for([grid]), [grid])
        assert len(features) == output_tokens(grid, (2, 2)) == 6


def test_an_image_is_not_a_one_frame_video_repeated():
    model = tiny_model()
    frame = patches_for([(1, 4, 4)])
    image = model.vision_features(frame, [(1, 4, 4)])
    still_video = model.vision_features(torch.cat((frame, frame)), [(2, 4, 4)])
    assert (image - still_video).abs().max() > 1e-3


def test_merged_tokens_hold_two_by_two_neighbours_in_raster_order():
    model = tiny_model()
    numbers = torch.arange(24.0)[:, None].expand(24, 48)
    merged = model.vision_tower._merge(numbers, [(1, 4, 6)])[..., 0]
    assert merged[0].tolist() == [0, 1, 6, 7]
    assert merged[1].tolist() == [2, 3, 8, 9]
    assert merged[3].tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize("grid", [(5, 2, 2), (0, 2, 2), (1, 3, 2), (1, 2, 0)])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(ValueError, match="grid"):
        tiny_model().vision_features(torch.zeros(12, 3, 14, 14), [grid])


def test_patches_that_do_not_match_their_grids_are_refused():
    with pytest.raises(ValueError, match="patches have shape"):
        tiny_model().vision_features(torch.zeros(12, 3, 14, 14), [(1, 4, 4)])
