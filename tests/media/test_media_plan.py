"""Sizes, sampled frames and timestamps by arithmetic."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.media import MediaConfig, plan_image, plan_video, sample_frames
from k25.media.plan import format_timestamp, plan_frame

CONFIG = MediaConfig()
SIDES = st.one_of(st.integers(1, 60), st.integers(1, 20_000))

# Width, height, tokens as an image, tokens as a video frame, as the released planner counts them.
RELEASED_COUNTS = [
    (1, 1, 1, 1),
    (28, 28, 1, 1),
    (29, 28, 2, 2),
    (100, 50, 8, 8),
    (224, 224, 64, 64),
    (512, 512, 361, 361),
    (640, 480, 414, 414),
    (1024, 768, 1036, 1036),
    (1280, 720, 1196, 1075),
    (1536, 1024, 2035, 1080),
    (1920, 1080, 2691, 1032),
    (2560, 1440, 4214, 1075),
    (3000, 3000, 4225, 1089),
    (3840, 2160, 4214, 1032),
    (4096, 4096, 4225, 1089),
    (7168, 7168, 4096, 1024),
    (8000, 100, 1024, 1024),
]


@pytest.mark.parametrize(("width", "height", "image_tokens", "frame_tokens"), RELEASED_COUNTS)
def test_token_counts_are_those_of_the_release(width, height, image_tokens, frame_tokens):
    assert plan_image(width, height, CONFIG).tokens == image_tokens
    assert plan_video(width, height, 1.0, (0,), CONFIG).tokens == frame_tokens


def test_full_hd_has_the_released_grid():
    plan = plan_image(1920, 1080, CONFIG)
    assert (plan.grid_height, plan.grid_width) == (78, 138)


@given(SIDES, SIDES, st.sampled_from([16384, 4096]))
def test_plans_keep_their_bounds(width, height, limit):
    plan = plan_frame(width, height, CONFIG, limit)
    assert 1 <= plan.width <= width
    assert 1 <= plan.height <= height
    assert plan.padded_width % 28 == plan.padded_height % 28 == 0
    assert 0 <= plan.padded_width - plan.width < 28
    assert 0 <= plan.padded_height - plan.height < 28
    assert max(plan.grid_width, plan.grid_height) <= 512
    assert plan.tokens * 4 == plan.patches
    assert plan.tokens <= {16384: 4446, 4096: 1332}[limit]


@given(SIDES, SIDES)
def test_a_small_image_is_not_resized_and_a_large_one_keeps_its_shape(width, height):
    plan = plan_image(width, height, CONFIG)
    if max(1, width // 14) * max(1, height // 14) <= 16384 and max(width, height) <= 512 * 14:
        assert (plan.width, plan.height) == (width, height)
    elif min(plan.width, plan.height) > 1:
        # Both sides are the exact ones cut down to whole pixels, so the true scale lies between these two.
        low, high = Fraction(plan.width, width), Fraction(plan.width + 1, width)
        assert low * height - 1 <= plan.height <= high * height


@given(SIDES, SIDES)
def test_turning_a_picture_turns_its_plan(width, height):
    plan, turned = plan_image(width, height, CONFIG), plan_image(height, width, CONFIG)
    assert (plan.grid_width, plan.grid_height) == (turned.grid_height, turned.grid_width)


def test_every_number_comes_from_the_settings():
    config = MediaConfig(patch_size=8, merge_kernel_size=3, in_patch_limit=100, patch_limit_on_one_side=15)
    plan = plan_image(1000, 50, config)
    assert (plan.width, plan.height) == (120, 6)  # the side limit of 15 patches of 8 pixels decides
    assert (plan.grid_width, plan.grid_height, plan.tokens) == (15, 3, 5)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-1, 5)])
def test_a_picture_without_pixels_is_an_error(width, height):
    with pytest.raises(InputError, match="at least 1 x 1"):
        plan_image(width, height, CONFIG)


def test_ten_seconds_at_thirty_frames_are_sampled_twice_a_second():
    sampled = sample_frames(300, 30.0, CONFIG)
    expected = "0 16 31 47 63 79 94 110 126 142 157 173 189 205 220 236 252 268 283 299"
    assert sampled == tuple(map(int, expected.split()))
    stamps = [chunk.timestamp for chunk in plan_video(640, 480, 30.0, sampled, CONFIG).chunks]
    # 6.3 s and 8.4 s: the nearest doubles lie below and above, and milliseconds are cut off.
    assert stamps == ["00:00:00.000", "00:00:02.100", "00:00:04.200", "00:00:06.299", "00:00:08.400"]


def test_milliseconds_are_cut_off_not_rounded():
    sampled = sample_frames(101, 25.0, CONFIG)
    assert sampled == (0, 14, 29, 43, 57, 71, 86, 100)
    assert [c.timestamp for c in plan_video(64, 64, 25.0, sampled, CONFIG).chunks] == ["00:00:00.000", "00:00:02.279"]


def test_a_slow_video_keeps_all_its_frames_and_its_last_chunk_is_short():
    plan = plan_video(64, 64, 1.0, sample_frames(7, 1.0, CONFIG), CONFIG)
    assert [chunk.frames for chunk in plan.chunks] == [(0, 1, 2, 3), (4, 5, 6)]
    assert [chunk.timestamp for chunk in plan.chunks] == ["00:00:00.000", "00:00:04.000"]


def test_a_single_frame_is_one_chunk():
    assert [c.frames for c in plan_video(64, 64, 30.0, sample_frames(1, 30.0, CONFIG), CONFIG).chunks] == [(0,)]


def test_a_chunk_costs_the_same_whatever_its_length():
    short = plan_video(64, 64, 1.0, (0, 1, 2, 3, 4), CONFIG)
    assert short.tokens == 2 * short.frame.tokens
    assert short.patches == 5 * short.frame.patches


@given(st.integers(1, 100_000), st.floats(0.1, 240), st.integers(1, 500))
def test_sampled_frames_ascend_and_span_the_video(frames, fps, wanted):
    for sampled in (sample_frames(frames, fps, CONFIG), sample_frames(frames, fps, CONFIG, frame_count=wanted)):
        assert sampled[0] == 0
        assert len(sampled) == 1 or sampled[-1] == frames - 1
        assert all(early < late for early, late in itertools.pairwise(sampled))
    assert len(sampled) == min(wanted, frames)


def test_the_configured_number_of_frames_caps_the_rate():
    assert len(sample_frames(300, 30.0, MediaConfig(max_num_frames_each_video=6))) == 6
    assert len(sample_frames(300, 30.0, MediaConfig(max_num_frames_each_video=6), sample_fps=0.2)) == 2


def test_a_limit_on_the_whole_video_is_shared_by_its_frames():
    config = MediaConfig(in_patch_limit_video=4096)
    assert plan_video(1000, 1000, 1.0, (0, 1, 2, 3), config).frame == plan_frame(1000, 1000, config, 1024)


def test_a_missing_limit_per_frame_falls_back_to_the_limit_of_images():
    config = MediaConfig(in_patch_limit_each_frame=None)
    assert plan_video(1920, 1080, 1.0, (0,), config).tokens == 2691


@pytest.mark.parametrize(
    "options",
    [{"sample_fps": 0.0}, {"sample_fps": float("nan")}, {"frame_count": 0}, {"sample_fps": 1.0, "frame_count": 2}],
)
def test_impossible_sampling_is_an_error(options):
    with pytest.raises(InputError):
        sample_frames(10, 30.0, CONFIG, **options)


@pytest.mark.parametrize(
    ("seconds", "mode", "text"),
    [
        (90061.5, "hh:mm:ss.fff", "01:01:01.500"),
        (3725.25, "mm:ss.fff", "02:05.250"),
        (59.999, "mm:ss", "00:59"),
    ],
)
def test_timestamps_are_wall_clocks_that_wrap(seconds, mode, text):
    assert format_timestamp(seconds, mode) == text
