"""Pixels to patches, against a slow reference that takes one value at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_made_here import noise
from PIL import Image

from k25.media import ImageInput, MediaConfig, MediaProcessor

PROCESSOR = MediaProcessor(threads=1)


def slow_patches(image, config):
    """Patches by the definition, value by value in float32."""
    plan = MediaProcessor(config).count(ImageInput(image)).plan
    pixels = np.asarray(image.resize((plan.width, plan.height), Image.Resampling.BICUBIC))
    size = config.patch_size
    patches = np.empty((plan.grid_height * plan.grid_width, 3, size, size), np.float32)
    for index in np.ndindex(patches.shape):
        patch, channel, row, column = index
        y, x = patch // plan.grid_width * size + row, patch % plan.grid_width * size + column
        inside = y < plan.height and x < plan.width
        value = np.float32(pixels[y, x, channel] if inside else 0) / np.float32(255)
        mean, std = np.float32(config.image_mean[channel]), np.float32(config.image_std[channel])
        patches[index] = (value - mean) / std
    return patches


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 90), st.integers(1, 60), st.integers(0, 5))
def test_patches_are_exactly_those_of_the_definition(width, height, seed):
    image = Image.fromarray(noise(width, height, seed))
    batch = PROCESSOR([ImageInput(image)])
    np.testing.assert_array_equal(batch.pixel_values, slow_patches(image, PROCESSOR.config))


def test_a_shrunk_image_is_resized_by_bicubic_on_bytes():
    config = MediaConfig(in_patch_limit=16)
    image = Image.fromarray(noise(150, 90))
    batch = MediaProcessor(config)([ImageInput(image)])
    np.testing.assert_array_equal(batch.pixel_values, slow_patches(image, config))


def test_other_patch_sizes_means_and_deviations_are_honoured():
    config = MediaConfig(patch_size=6, merge_kernel_size=1, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.25))
    image = Image.fromarray(noise(20, 13))
    batch = MediaProcessor(config)([ImageInput(image)])
    assert batch.grid_thws.tolist() == [[1, 3, 4]]
    np.testing.assert_allclose(batch.pixel_values, slow_patches(image, config), rtol=0, atol=1e-6)


def test_every_byte_value_is_normalised_exactly():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
    got = set(PROCESSOR([ImageInput(image)]).pixel_values.ravel().tolist())
    assert got == {float((np.float32(x) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)) for x in range(256)}


def test_padding_becomes_minus_one():
    batch = PROCESSOR([ImageInput(Image.new("RGB", (1, 1), "white"))])
    assert batch.pixel_values.shape == (4, 3, 14, 14)
    assert batch.pixel_values[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert np.count_nonzero(batch.pixel_values == -1.0) == batch.pixel_values.size - 3


def test_items_stand_in_order_and_equal_their_single_batches():
    images = [ImageInput(Image.fromarray(noise(40 * n, 30, n))) for n in range(1, 5)]
    batch = MediaProcessor(threads=3)(images)
    singles = [PROCESSOR([image]) for image in images]
    np.testing.assert_array_equal(batch.pixel_values, np.concatenate([one.pixel_values for one in singles]))
    assert batch.grid_thws.tolist() == [grid for one in singles for grid in one.grid_thws.tolist()]
    assert batch.tokens == tuple(one.tokens[0] for one in singles)
    assert (batch.pixel_values.dtype, batch.grid_thws.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (3001, 1999), (300, 9001), (9001, 300)])
def test_dividing_an_image_among_threads_changes_no_bit(width, height):
    image = [ImageInput(Image.fromarray(noise(width, height)))]
    divided = MediaProcessor(threads=3)(image)
    np.testing.assert_array_equal(divided.pixel_values, PROCESSOR(image).pixel_values)


def test_no_media_make_an_empty_batch():
    batch = PROCESSOR([])
    assert batch.pixel_values.shape == (0, 3, 14, 14)
    assert batch.grid_thws.shape == (0, 3)


@pytest.mark.parametrize(("width", "height"), [(56, 84), (100, 61), (448, 252)])
def test_without_resizing_transformers_gives_the_same_patches(kimi_processors, width, height):
    image = Image.fromarray(noise(width, height))
    theirs = kimi_processors.image(image, return_tensors="pt")
    ours = PROCESSOR([ImageInput(image)])
    np.testing.assert_array_equal(ours.grid_thws, theirs["image_grid_thw"].numpy())
    # It normalises in another order of operations, so the last bit may differ.
    np.testing.assert_allclose(ours.pixel_values, theirs["pixel_values"].numpy(), rtol=0, atol=1e-6)


def test_with_resizing_transformers_is_within_a_few_grey_levels(kimi_processors):
    gradient = (
        np.linspace(0, 255, 2600)[None, :, None] * np.ones((1500, 1, 3)) * np.linspace(0.2, 1, 1500)[:, None, None]
    )
    image = Image.fromarray(gradient.astype(np.uint8))
    theirs = kimi_processors.image(image, return_tensors="pt")
    ours = PROCESSOR([ImageInput(image)])
    np.testing.assert_array_equal(ours.grid_thws, theirs["image_grid_thw"].numpy())
    assert np.abs(ours.pixel_values - theirs["pixel_values"].numpy()).max() * 127.5 < 3
