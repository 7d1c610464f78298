"""`k25 tokens` as a person runs it."""

import json
from pathlib import Path

import pytest
from media_made_here import encoded, make_video, noise

from k25.chat import Tokenizer

TOKENIZER = Path(__file__).parents[3] / "shared/data/kimi-tokenizer"


@pytest.fixture
def run(k25_here):
    return lambda *arguments: k25_here("tokens", *arguments, env={"COLUMNS": "200"})


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(640, 480), "PNG"))
    make_video(tmp_path / "b.mp4", "mpeg4", frames=101, rate=25)
    (tmp_path / "c.png").write_bytes(encoded(noise(30, 30), "PNG")[:20])
    return tmp_path


def test_a_bad_file_is_an_error_and_the_others_are_counted(files, run):
    result = run(files / "c.png", files / "a.png", files / "b.mp4", files / "none")
    assert result.returncode == 2
    errors = result.stderr.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "error"]
    assert "c.png: is a damaged or cut png" in errors[0]
    for word in ("640 x 480", "414", "36 x 46", "101 frames at 25/s, 8 sampled", "00:00:02.279", "426"):
        assert word in result.stdout


def test_json_is_one_object(files, run):
    result = run(files / "a.png", files / "b.mp4", files / "c.png", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 2
    image, video = (report["files"][str(files / name)] for name in ("a.png", "b.mp4"))
    assert (image["kind"], image["tokens"], image["grid"]) == ("image", 414, [36, 46])
    assert video["chunks"][1] == {"timestamp": "00:00:02.279", "frames": [57, 71, 86, 100], "tokens": 6}
    assert list(report["errors"]) == [str(files / "c.png")]
    assert report["tokens"] == 426


def test_settings_beside_the_tokenizer_are_used(files, run):
    if not TOKENIZER.exists():
        pytest.skip("no released tokenizer beside the checkout")
    folder = files / "checkpoint"
    folder.mkdir()
    (folder / "tiktoken.model").symlink_to(TOKENIZER / "tiktoken.model")
    (folder / "preprocessor_config.json").write_text(json.dumps({"media_proc_cfg": {"in_patch_limit": 16}}))
    (files / "text.md").write_text("Hello, world! 你好")
    result = run(files / "a.png", files / "text.md", "--tokenizer", folder, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0
    assert report["files"][str(files / "a.png")]["tokens"] <= 9
    text = report["files"][str(files / "text.md")]
    assert text["tokens"] == len(Tokenizer.from_file(TOKENIZER).encode("Hello, world! 你好"))


def test_text_needs_a_tokenizer(files, run):
    (files / "text.md").write_text("Hello")
    result = run(files / "text.md")
    assert result.returncode == 2
    assert "name a tokenizer with --tokenizer" in result.stderr


def test_bytes_of_no_kind_are_an_error(files, run):
    (files / "x.bin").write_bytes(b"\xff\x00\xfe\x80")
    result = run(files / "x.bin")
    assert result.returncode == 2
    assert "neither UTF-8 text nor a supported image or video" in result.stderr
