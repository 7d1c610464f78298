"""Stop strings across arbitrary cuts, against searching the whole text at once."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from k25.serve.stop_strings import StopMatcher

TEXT = st.text(alphabet="ab", max_size=30)


def cut(text, cuts):
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@given(TEXT, st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_passes_is_the_text_before_the_match_that_ends_first(text, stops):
    # One character at a time there is only one possible first match; larger cuts may see two at once.
    matcher = StopMatcher(stops)
    passed = "".join(matcher.feed(character) for character in text)
    passed += matcher.flush()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    first = min(ends, default=None)
    if first is None:
        assert passed == text
    else:
        assert any(passed == text[: first - len(stop)] for stop in stops if text[:first].endswith(stop))
    assert matcher.matched == (first is not None)


@given(TEXT, st.text(alphabet="ab", min_size=1, max_size=4), st.lists(st.integers(0)))
def test_cuts_do_not_matter(text, stop, cuts):
    matcher = StopMatcher([stop])
    passed = "".join(matcher.feed(piece) for piece in cut(text, cuts)) + matcher.flush()
    assert passed == text.partition(stop)[0]
