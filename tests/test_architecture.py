"""The tour of the architecture names files and types as they are."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
PARTS = re.split(r"\n(?=\d+\. |## )", PAGE.read_text())
STOPS = [" ".join(part.split()) for part in PARTS if re.match(r"\d+\. ", part)]


@pytest.mark.parametrize("stop", STOPS)
def test_every_name_of_a_stop_is_in_one_of_its_files(stop):
    paths = [(PAGE.parent / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", stop)]
    text = "\n".join(path.read_text() for path in paths)
    names = re.findall(r"`([A-Za-z_]+)`", stop)
    assert paths
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_the_page_tells_of_every_kind_of_trip():
    assert len(STOPS) > 25
