"""Videos of many codecs and containers: counting, sampling, seeking, damage."""

import contextlib
import io

import av
import numpy as np
import pytest
from media_made_here import decode_everything, encoded, frame_picture, make_video, noise
from PIL import Image

from k25.errors import InputError
from k25.media import Frames, ImageInput, MediaConfig, MediaLimits, MediaProcessor, VideoInput, open_bytes, open_path
from k25.media.videos import VideoFile

LIMITS = MediaLimits()
PROCESSOR = MediaProcessor(threads=2)

# File name, codec, options of `make_video`: short groups of pictures, so that sparse sampling seeks.
KINDS = [
    ("b-frames.mp4", "libx264", {"options": {"g": "12", "bf": "3"}}),
    ("open-gop.mkv", "libx264", {"options": {"x264-params": "keyint=12:open-gop=1:bframes=3"}}),
    ("h265.mp4", "libx265", {"options": {"x265-params": "keyint=12:log-level=none"}}),
    ("vp9.webm", "libvpx-vp9", {"options": {"g": "12", "cpu-used": "8"}}),
    ("vp8.webm", "libvpx", {"options": {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8"}}),
    ("av1.mp4", "libsvtav1", {"options": {"preset": "12", "g": "12"}, "size": (64, 64)}),
    ("mpeg4.avi", "mpeg4", {"options": {"g": "12", "bf": "2"}}),
    ("h264.avi", "libx264", {"options": {"g": "12", "bf": "3"}}),
    ("stream.ts", "libx264", {"options": {"g": "12", "bf": "2"}}),
    ("program.mpg", "mpeg2video", {"options": {"g": "12", "bf": "2"}}),
    ("flash.flv", "libx264", {"options": {"g": "12"}}),
    ("windows.wmv", "wmv2", {"options": {"g": "12"}}),
    ("phone.3gp", "mpeg4", {"options": {"g": "12"}}),
    ("pictures.mov", "mjpeg", {"pixels": "yuvj420p"}),
    ("sound.mp4", "libx264", {"options": {"g": "12"}, "audio": True}),
    ("odd.mp4", "libx264", {"options": {"g": "12"}, "size": (61, 37), "pixels": "yuv444p"}),
    (
        "fragments.mp4",
        "libx264",
        {"options": {"g": "12"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    ("elementary.m2v", "mpeg2video", {"options": {"g": "12"}}),
    ("variable.mkv", "libx264", {"options": {"g": "12"}, "times": [n * 40 + n * n for n in range(96)]}),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def made(request, tmp_path_factory):
    name, codec, options = request.param
    path = make_video(tmp_path_factory.mktemp("video") / name, codec, **({"frames": 96} | options))
    return path, decode_everything(path)


@pytest.mark.parametrize("numbers", [range(96), [0, 95], [95], [5, 6, 40, 41, 90], range(3, 96, 13), [50, 50, 50]])
def test_sampled_frames_are_those_of_decoding_everything(made, numbers):
    path, everything = made
    with VideoFile(open_path(path), LIMITS) as video:
        assert video.info.frames == len(everything) == 96
        got = [np.asarray(image) for image in video.read(numbers)]
        again = [np.asarray(image) for image in video.read(numbers)]
    assert len(got) == len(numbers)
    for number, image, second in zip(numbers, got, again, strict=True):
        np.testing.assert_array_equal(image, everything[number])
        np.testing.assert_array_equal(second, everything[number])


def test_memory_and_file_give_the_same_batch(made):
    path, _ = made
    from_file = PROCESSOR([VideoInput(open_path(path))])
    from_memory = PROCESSOR([VideoInput(open_bytes(path.read_bytes()))])
    np.testing.assert_array_equal(from_file.pixel_values, from_memory.pixel_values)
    assert from_file.counts == from_memory.counts


def test_counting_agrees_with_the_batch(made):
    media = VideoInput(open_path(made[0]), frame_count=6)
    count, batch = PROCESSOR.count(media), PROCESSOR([media])
    assert batch.counts == (count,)
    assert batch.grid_thws.tolist() == [list(grid) for grid in count.grids]
    assert batch.grid_thws[:, 0].tolist() == [4, 2]
    assert sum(batch.tokens) == count.tokens
    assert len(batch.pixel_values) == count.patches == batch.grid_thws.prod(axis=1).sum()


def test_a_video_and_its_frames_in_memory_give_the_same_batch(tmp_path):
    path = make_video(tmp_path / "a.mp4", "libx264", frames=50, rate=25)
    frames = [Image.fromarray(picture) for picture in decode_everything(path)]
    from_file, from_memory = (PROCESSOR([VideoInput(s)]) for s in (open_path(path), Frames(frames, 25.0)))
    np.testing.assert_array_equal(from_file.pixel_values, from_memory.pixel_values)
    assert from_file.counts[0].prompt == from_memory.counts[0].prompt


def test_the_prompt_has_one_timed_item_per_chunk(tmp_path):
    path = make_video(tmp_path / "a.mp4", "mpeg4", frames=101, rate=25)
    count = PROCESSOR.count(VideoInput(open_path(path)))
    item = "<|media_begin|>video<|media_content|><|media_pad|><|media_end|>"
    assert count.prompt == f"00:00:00.000{item}00:00:02.279{item}"


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])
def test_a_very_short_video_works(tmp_path, name, codec, frames):
    path = make_video(tmp_path / name, codec, frames=frames, rate=30)
    batch = PROCESSOR([VideoInput(open_path(path), frame_count=5)])
    assert batch.grid_thws.tolist() == [[frames, 4, 6]]


def test_sparse_sampling_decodes_a_small_part(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", "libx264", frames=600, options={"g": "30"})
    decoded = []
    original = VideoFile._decode
    monkeypatch.setattr(VideoFile, "_decode", lambda *a: (decoded.append(f) or f for f in original(*a)))
    with VideoFile(open_path(path), LIMITS) as video:
        decoded.clear()
        assert len(list(video.read([0, 300, 599]))) == 3
    assert len(decoded) < 60


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_rotated_video_is_shown_as_a_player_shows_it(tmp_path, angle):
    # The container's matrix turns the picture anticlockwise by the angle.
    path = make_video(tmp_path / "a.mp4", "libx264", rotation=angle, size=(64, 32), pixels="yuv444p")
    expected = np.rot90(decode_everything(path)[10], angle // 90)
    with VideoFile(open_path(path), LIMITS) as video:
        assert (video.info.height, video.info.width) == expected.shape[:2]
        np.testing.assert_array_equal(np.asarray(next(iter(video.read([10])))), expected)


def test_frame_rate_of_a_variable_video_is_its_average(tmp_path):
    times = [n * 50 if n < 40 else 2000 + (n - 40) * 200 for n in range(60)]
    path = make_video(tmp_path / "a.mkv", "libx264", frames=60, times=times)
    with VideoFile(open_path(path), LIMITS) as video:
        assert video.info.fps == pytest.approx(59 / 5.8, rel=1.0)


def test_timestamps_use_frame_number_over_average_rate(tmp_path):
    path = make_video(tmp_path / "a.mp4", "libx264", frames=40, rate=10)
    plan = PROCESSOR.count(VideoInput(open_path(path), frame_count=8)).plan
    assert plan.chunks[1].seconds == pytest.approx(plan.frames[4] / 10)


def test_settings_of_a_small_model_are_honoured(tmp_path):
    config = MediaConfig(patch_size=8, in_patch_limit_each_frame=16, temporal_merge_kernel_size=2, sample_fps=4.0)
    path = make_video(tmp_path / "a.mp4", "libx264", frames=24, rate=24)
    batch = MediaProcessor(config)([VideoInput(open_path(path))])
    assert batch.pixel_values.shape[1:] == (3, 8, 8)
    assert batch.grid_thws[:, 0].tolist() == [2, 2]


def test_images_and_videos_mix_in_input_order(tmp_path):
    path = make_video(tmp_path / "a.mp4", "libx264", frames=10, rate=2)
    picture = Image.fromarray(noise(30, 30))
    batch = PROCESSOR([ImageInput(picture), VideoInput(open_path(path)), ImageInput(picture)])
    assert batch.grid_thws.tolist() == [[1, 4, 4], [4, 4, 6], [4, 4, 6], [2, 4, 6], [1, 4, 4]]
    np.testing.assert_array_equal(batch.pixel_values[:16], batch.pixel_values[-16:])


def test_transformers_gives_the_same_video_patches(kimi_processors):
    torch = pytest.importorskip("torch")
    frames = np.stack([noise(70, 56, n) for n in range(4)])
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    theirs = kimi_processors.video([clip], do_sample_frames=False, return_tensors="pt")
    ours = PROCESSOR([VideoInput(Frames([Image.fromarray(f) for f in frames], 2.0))])
    np.testing.assert_array_equal(ours.grid_thws, theirs["video_grid_thw"].numpy())
    their_patches = theirs["pixel_values_videos"].numpy().reshape(ours.pixel_values.shape)
    np.testing.assert_allclose(ours.pixel_values, their_patches, rtol=0, atol=1e-6)


def test_an_encrypted_video_is_an_error(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6" * 8, "encryption_kid": "a7e6" * 8}
    path = make_video(tmp_path / "secret.mp4", "libx264", container_options=options)
    with pytest.raises(InputError, match=r"secret\.mp4: is encrypted"):
        PROCESSOR.count(VideoInput(open_path(path)))


def test_a_video_without_frames_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match=r"damaged|no picture track"):
        PROCESSOR.count(VideoInput(open_path(path)))


def test_sound_alone_is_an_error(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 16000
        container.mux(stream.encode(tone))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no picture track"):
        PROCESSOR.count(VideoInput(open_path(path)))


@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_mp4_is_an_error(tmp_path, share, faststart):
    options = {"movflags": "faststart"} if faststart else {}
    path = make_video(tmp_path / "a.mp4", "libx264", container_options=options)
    data = path.read_bytes()
    with pytest.raises(InputError, match="damaged"):
        PROCESSOR([VideoInput(open_bytes(data[: int(len(data) * share)]))])


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx-vp9"), ("a.ts", "libx264"), ("a.flv", "libx264")])
def test_a_cut_stream_gives_the_frames_it_holds(tmp_path, name, codec):
    # These containers are written on the fly; a recording that stops is legal.
    path = make_video(tmp_path / name, codec, frames=96, options={"g": "12"})
    data = path.read_bytes()
    count = PROCESSOR.count(VideoInput(open_bytes(data[: len(data) * 3 // 4])))
    assert 24 < count.info.frames < 96
    PROCESSOR([VideoInput(open_bytes(data[: len(data) * 3 // 4]))])


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")])
def test_a_damaged_video_never_raises_anything_else(tmp_path, name, codec):
    good = np.frombuffer(make_video(tmp_path / name, codec, options={"g": "12"}).read_bytes(), np.uint8)
    generator = np.random.default_rng(3)
    for _ in range(25):
        bad = good.copy()
        bad[generator.integers(12, len(bad), 20)] = generator.integers(0, 256, 20)
        with contextlib.suppress(InputError):
            batch = PROCESSOR([VideoInput(open_bytes(bad.tobytes()))])
            assert np.isfinite(batch.pixel_values).all()
            assert np.abs(batch.pixel_values).max() <= 1


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"FLV\x01", b"\0\0\x01\xba"]
)
def test_a_bare_signature_is_an_error(head):
    with pytest.raises(InputError, match="media:"):
        PROCESSOR.count(VideoInput(open_bytes(head + bytes(50))))


def test_a_playlist_is_never_followed(tmp_path):
    make_video(tmp_path / "part.ts", "libx264")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:2,\n{tmp_path}/part.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match="no image or video of a supported format"):
        open_path(playlist)
    playlist.write_bytes(b"\0\0\0\x18ftypisom" + playlist.read_bytes())
    with pytest.raises(InputError):
        PROCESSOR.count(VideoInput(open_path(playlist)))


def test_frames_above_the_pixel_limit_are_refused(tmp_path):
    path = make_video(tmp_path / "a.mp4", "libx264", size=(64, 48))
    with pytest.raises(InputError, match="limit of 3000 pixels"):
        MediaProcessor(limits=MediaLimits(max_pixels=3000)).count(VideoInput(open_path(path)))


def test_a_video_given_as_an_image_is_an_error(tmp_path):
    path = make_video(tmp_path / "a.mp4", "mpeg4").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match="give it as a video"):
        PROCESSOR.count(ImageInput(open_path(path)))


def test_a_cover_picture_is_not_the_video(tmp_path):
    path = tmp_path / "song.mkv"
    cover = encoded(frame_picture(0, 32, 32), "PNG")
    with av.open(str(path), "w", format="mp4") as container, av.open(io.BytesIO(cover)) as picture:
        stream = container.add_stream_from_template(picture.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        for packet in picture.demux():
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(InputError, match="no picture track"):
        PROCESSOR.count(VideoInput(open_path(path)))


def test_frames_of_different_sizes_are_an_error():
    with pytest.raises(InputError, match="one size"):
        PROCESSOR([VideoInput(Frames([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], 2.0))])
