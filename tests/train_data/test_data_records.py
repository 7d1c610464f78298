"""Files as sources: what is damaged is skipped and counted, what is unusable as a whole is named."""

import base64
import gzip
import io
import json
import lzma
import sys
from collections import Counter

import pytest
from packed_streams import SUMS, streams
from PIL import Image

from k25.errors import InputError
from k25.train.data.records import Records

GOOD = [{"text": f"This is record {number}."} for number in range(20)]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def skipped(data, count=4):
    return sum((Counter(data.batch(index).skipped) for index in range(count)), Counter())


@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_json_lines_are_read_from_any_wrapping(tmp_path, suffix, compress):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(lines(GOOD)))
    records = Records(path, texts=True)
    assert [records.read(index) for index in range(len(records))] == GOOD


def test_zstandard_is_read_or_its_package_named(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    try:
        import zstandard
    except ImportError:
        path.write_bytes(b"anything")
        with pytest.raises(InputError, match="pip install zstandard"):
            Records(path, texts=True)
    else:
        path.write_bytes(zstandard.compress(lines(GOOD)))
        records = Records(path, texts=True)
        assert [records.read(index) for index in range(len(records))] == GOOD


def test_parquet_rows_are_records(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([*GOOD, {"text": None}]), path, row_group_size=7)
    records = Records(path, texts=True)
    assert [records.read(index) for index in range(len(records))] == [*GOOD, {}]


def test_a_damaged_row_group_of_parquet_costs_only_its_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(GOOD), path, row_group_size=5, compression="gzip")
    place = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 60] = b"\xff" * 60
    path.write_bytes(bytes(data))
    counted = skipped(streams({"a": {"kind": "text", "path": path}}, block_streams=1), 1)
    assert counted["a: not JSON"] >= 5


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"source 'a': .*a.parquet: reading .parquet needs the package pyarrow"):
        streams({"a": {"kind": "text", "path": tmp_path}})


def test_what_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match="is not a parquet file"):
        streams({"a": {"kind": "text", "path": tmp_path}})


def test_bad_lines_are_skipped_and_counted_by_reason(tmp_path):
    bad = b'{"text": \n[1]\n"text"\n{"title": "no text"}\n{"text": 3}\n{"text": " "}\n\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(bad + lines(GOOD))
    data = streams({"a": {"kind": "text", "path": path}}, block_streams=1, sequence_tokens=400, surplus=0)
    seen = skipped(data)
    assert {"a: not JSON", "a: no JSON object", "a: no text in field 'text'", "a: empty text"} <= set(seen)


def test_a_truncated_archive_gives_what_came_before_the_damage(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    noise = [{"text": f"{number * 7919 % 10007} and {number**5}"} for number in range(5000)]
    whole = gzip.compress(lines(noise))
    path.write_bytes(whole[: len(whole) // 2])
    data = streams({"a": {"kind": "text", "path": path}})
    assert data.batch(0).skipped["a: a.jsonl.gz is damaged; what follows the damage is lost"] == 1
    assert len(data.batch(0).tokens_T) > 400


def test_files_that_are_not_utf8_are_skipped(tmp_path):
    (tmp_path / "good.txt").write_text("Good text. " * 20)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x80 bad " * 20)
    data = streams({"a": {"kind": "text", "path": tmp_path}}, block_streams=1)
    assert skipped(data)["a: not UTF-8"] >= 1


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "nothing to read"),
        ({"a.jsonl": b""}, "has no records"),
        ({"a.jsonl": b"\n\n"}, "has no records"),
        ({"a.jsonl": b"{}\n{}\n"}, "none of its first records can be used: no text in field 'text'"),
        ({"a.txt": b""}, "none of its first records can be used: empty text"),
        ({"a.csv": b"text\n"}, "nothing to read"),
    ],
)
def test_an_empty_source_is_named(tmp_path, content, match):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"source 'empty': .*{match}"):
        streams({"empty": {"kind": "text", "path": tmp_path}, "sums": SUMS})


def test_an_absent_path_is_named(tmp_path):
    with pytest.raises(InputError, match=r"source 'a': .*nowhere: no such file or folder"):
        streams({"a": {"kind": "text", "path": tmp_path / "nowhere"}})


def picture(url):
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "Colour?"}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]}


def png():
    buffer = io.BytesIO()
    Image.effect_noise((56, 56), 80).save(buffer, "png")
    return buffer.getvalue()


def test_conversations_bring_their_pictures_from_beside_them_or_inline(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    inline = "data:image/png;base64," + base64.b64encode(png()).decode()
    (tmp_path / "a.jsonl").write_bytes(lines([picture("a.png"), picture(inline)]))
    batch = streams({"a": {"kind": "conversations", "path": tmp_path / "a.jsonl"}}, block_streams=1).batch(0)
    assert len(batch.grids) == len(batch.boundaries_S) - 1
    assert set(batch.grids) == {(1, 4, 4)}
    assert not batch.skipped.keys() - {"no room in its block"}


def test_damaged_pictures_and_conversations_are_skipped_and_counted(tmp_path):
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "torn.png").write_bytes(png()[:400])
    (tmp_path / "words.png").write_text("no picture")
    no_answer = {"messages": [{"role": "user", "content": "Hello?"}]}
    broken = {"messages": [{"role": "assistant"}]}
    urls = ["torn.png", "words.png", "absent.png", "../outside.png", "/etc/passwd"]
    records = [picture("good.png")] * 4 + [picture(url) for url in urls] + [no_answer, broken, {"turns": []}]
    (tmp_path / "a.jsonl").write_bytes(lines(records))
    data = streams({"a": {"kind": "conversations", "path": tmp_path}}, block_streams=2)
    seen = skipped(data, 8)
    assert seen["a: a media path leaves the source's folder"] >= 2
    assert sum(count for reason, count in seen.items() if "no room" not in reason) >= len(records) - 4
    assert all(len(batch.grids) > 0 for batch in map(data.batch, range(8)))
    assert all(len(batch.patches) == 16 * len(batch.grids) for batch in map(data.batch, range(8)))
