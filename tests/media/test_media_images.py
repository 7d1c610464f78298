"""Images of every kind, good and bad."""

import contextlib
import zlib

import numpy as np
import pytest
from media_made_here import encoded, noise
from PIL import ExifTags, Image

from k25.errors import InputError
from k25.media import ImageInput, MediaLimits, MediaProcessor, VideoInput, open_bytes, open_path
from k25.media.images import image_size, load_image

LIMITS = MediaLimits()
PROCESSOR = MediaProcessor(threads=1)


def load(data):
    return load_image(open_bytes(data), LIMITS)


def png_with_size(width, height):
    """A PNG whose header announces this size and whose pixels are missing."""

    def chunk(name, body):
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_lossless_files_give_their_pixels(name):
    pixels = noise(33, 21)
    np.testing.assert_array_equal(np.asarray(load(encoded(pixels, name, lossless=True))), pixels)


def test_jpeg_gives_nearly_its_pixels():
    smooth = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    assert np.abs(np.asarray(load(encoded(smooth, "JPEG", quality=95))).astype(int) - smooth).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_upright(name, orientation):
    # What a viewer shows: the corner marked red must come out at the top left.
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    stored_from_upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    stored = Image.fromarray(np.ascontiguousarray(stored_from_upright[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(stored, name, exif=exif, quality=95)
    image = load(data)
    assert image.size == image_size(open_bytes(data), LIMITS) == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 4


def test_alpha_is_dropped_without_blending():
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert load(encoded(image, "PNG")).getpixel((0, 0)) == (200, 100, 50)


def test_a_palette_with_transparency_gives_its_colours():
    image = Image.new("RGB", (4, 4), (200, 100, 50)).quantize(4)
    assert load(encoded(image, "PNG", transparency=0)).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_every_grey_and_palette_mode_becomes_rgb(mode):
    image = load(encoded(Image.new("L", (5, 3), 255).convert(mode), "PNG"))
    assert (image.mode, image.getpixel((4, 2))) == ("RGB", (255, 255, 255))


def test_sixteen_bit_grey_keeps_its_upper_bits():
    image = Image.fromarray(np.array([[0, 0x1234, 0x80FF, 0xFFFF]], np.uint16))
    assert [pixel[0] for pixel in np.asarray(load(encoded(image, "PNG")))[0]] == [0x00, 0x12, 0x80, 0xFF]


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = load(encoded(image, "JPEG", quality=95)).getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_an_animation_as_an_image_is_its_first_frame(name):
    frames = [Image.new("RGB", (20, 12), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], name, save_all=True, append_images=frames[1:], duration=500, lossless=True)
    batch = PROCESSOR([ImageInput(open_bytes(data))])
    assert batch.grid_thws.tolist() == [[1, 2, 2]]
    np.testing.assert_array_equal(batch.pixel_values, PROCESSOR([ImageInput(frames[0])]).pixel_values)


@pytest.mark.parametrize("name", ["GIF", "WEBP"])
def test_an_animation_as_a_video_has_all_its_frames(name):
    colours = ["red", "lime", "blue", "white", "black"]
    frames = [Image.new("RGB", (28, 28), colour) for colour in colours]
    data = encoded(frames[0], name, save_all=True, append_images=frames[1:], duration=500, lossless=True)
    batch = PROCESSOR([VideoInput(open_bytes(data))])
    assert batch.grid_thws.tolist() == [[4, 2, 2], [1, 2, 2]]
    assert [chunk.timestamp for chunk in batch.counts[0].plan.chunks] == ["00:00:00.000", "00:00:02.000"]
    shown = (batch.pixel_values.reshape(5, 4, 3, 14, 14)[:, 0, :, 0, 0] > 0).tolist()
    assert shown == [
        [c == "red" or c == "white", c == "lime" or c == "white", c == "blue" or c == "white"] for c in colours
    ]


def test_a_still_image_asked_for_as_a_video_is_an_error():
    with pytest.raises(InputError, match="give it as an image"):
        PROCESSOR([VideoInput(open_bytes(encoded(noise(9, 9), "PNG")))])


def test_a_one_pixel_image_is_one_token():
    assert PROCESSOR.count(ImageInput(open_bytes(encoded(noise(1, 1), "PNG")))).tokens == 1


def test_a_very_wide_image_is_shrunk_to_the_side_limit():
    data = encoded(Image.new("RGB", (30_000, 40), "red"), "PNG")
    batch = PROCESSOR([ImageInput(open_bytes(data))])
    assert batch.grid_thws.tolist() == [[1, 2, 512]]
    assert batch.counts[0].plan.height == 9


def test_the_count_needs_only_the_header():
    count = PROCESSOR.count(ImageInput(open_bytes(png_with_size(1920, 1080))))
    assert (count.tokens, count.grids) == (2691, [(1, 78, 138)])


def test_a_wrong_name_does_not_matter(tmp_path):
    path = tmp_path / "movie.mp4"
    path.write_bytes(encoded(noise(30, 30), "WEBP"))
    assert PROCESSOR.count(ImageInput(open_path(path))).tokens == 4


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_file_is_an_error_that_names_it(name, share):
    data = encoded(noise(64, 64), name)
    source = open_bytes(data[: int(len(data) * share)], "holiday.img")
    with pytest.raises(InputError, match=r"holiday\.img: is a damaged or cut"):
        PROCESSOR([ImageInput(source)])


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x00\x00\x00\x00WEBP"])
def test_a_bare_signature_is_an_error(data):
    with pytest.raises(InputError, match="is a damaged or cut"):
        PROCESSOR([ImageInput(open_bytes(data))])


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_an_error(width, height):
    with pytest.raises(InputError):
        PROCESSOR([ImageInput(open_bytes(png_with_size(width, height)))])


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_from_its_header(width, height):
    with pytest.raises(InputError, match="pixels"):
        PROCESSOR.count(ImageInput(open_bytes(png_with_size(width, height))))


def test_a_damaged_image_of_every_kind_never_raises_anything_else():
    generator = np.random.default_rng(7)
    for name in ("PNG", "JPEG", "WEBP", "GIF"):
        good = np.frombuffer(encoded(noise(24, 24), name), np.uint8)
        for _ in range(60):
            bad = good.copy()
            bad[generator.integers(12, len(bad), 6)] = generator.integers(0, 256, 6)
            with contextlib.suppress(InputError):
                PROCESSOR([ImageInput(open_bytes(bad.tobytes()))])


def test_too_many_patches_in_one_call_are_refused():
    processor = MediaProcessor(limits=MediaLimits(max_patches=7))
    with pytest.raises(InputError, match="8 patches"):
        processor([ImageInput(Image.new("RGB", (20, 20)))] * 2)
