"""The script that turns documentation into a corpus: what it keeps, what it drops, what it writes down."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/build_text_corpus.py"
PARAGRAPH = "The quick brown fox jumps over the lazy dog while the river runs to the sea." + " The end is near." * 9


def build(output, *arguments):
    command = [sys.executable, str(SCRIPT), str(output), "--no-man-pages", "--no-documentation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "manual"
    folder.mkdir()
    (folder / "LICENSE").write_text("MIT License\n\nPermission is hereby granted to everyone. " * 9)
    (folder / "page.html").write_text(
        f"<html><head><title>T</title><style>p {{}}</style></head><body><nav>Menu</nav><h1>Foxes &amp; dogs</h1>"
        f"<p>{PARAGRAPH}</p><pre>a  =  1\n</pre><script>x()</script></body></html>"
    )
    (folder / "copy.txt").write_text(PARAGRAPH.upper() + "\n" + "Foxes 7 dogs" + " a = 2")
    (folder / "long.md").write_text("\n\n".join(f"Part {'abcdefghij'[part]}. {PARAGRAPH}" for part in range(10)))
    (folder / "short.txt").write_text("Too short.")
    (folder / "picture.txt").write_bytes(b"\x89PNG\0\xff" * 100)
    (folder / "changelog.txt").write_text(PARAGRAPH)
    return folder


def documents(output):
    with gzip.open(output / "corpus.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def test_documents_are_clean_cut_and_kept_once(manual, tmp_path):
    assert build(tmp_path / "out", "--folder", str(manual), "--most", "800").returncode == 0
    found = documents(tmp_path / "out")
    page = next(one["text"] for one in found if one["file"].endswith("page.html"))
    assert page.startswith("Foxes & dogs")
    assert "a  =  1" in page
    assert not {"Menu", "x()", "<p>"} & set(page.split())
    assert {Path(one["file"]).name for one in found} == {"page.html", "long.md", "copy.txt"}
    long = [one["text"] for one in found if one["file"].endswith("long.md")]
    assert max(map(len, long)) <= 800
    assert all(text.startswith("Part ") for text in long)
    assert "\n\n".join(long) == (manual / "long.md").read_text().strip()


def test_texts_that_differ_in_case_digits_and_space_alone_are_one(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(PARAGRAPH + " Version 1.2")
    (folder / "b.txt").write_text(PARAGRAPH.upper() + "\n\nVERSION 3.4.5")
    build(tmp_path / "out", "--folder", str(folder))
    assert len(documents(tmp_path / "out")) == 1


def test_the_manifest_names_files_and_licences(manual, tmp_path):
    build(tmp_path / "out", "--folder", str(manual))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["licences"] == {f"folder {manual}": ["MIT License"]}
    assert sum(file["characters"] for file in manifest["files"]) == sum(
        len(one["text"]) for one in documents(tmp_path / "out")
    )


def test_without_any_text_nothing_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    done = build(tmp_path / "out", "--folder", str(tmp_path / "empty"))
    assert (done.returncode, list((tmp_path / "out").iterdir())) == (2, [])
    assert "no text was found" in done.stderr
