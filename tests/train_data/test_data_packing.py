"""Best-fit packing: fuller than first-fit, within both rooms, and every document accounted for."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from k25.train.data.drafts import Draft
from k25.train.data.packing import pack_block


def draft(number, tokens, patches=0, can_be_cut=False):
    return Draft([number] * tokens, [True] * tokens, "s", patches=patches, can_be_cut=can_be_cut)


def first_fit(drafts, streams, room):
    """Tokens placed by the plain rule: each document into the first stream with room."""
    left = [room] * streams
    for one in drafts:
        place = next((place for place in range(streams) if left[place] >= len(one)), None)
        if place is not None:
            left[place] -= len(one)
    return streams * room - sum(left)


def sizes(seed, total, room):
    chance = random.Random(seed)
    made = []
    while sum(made) < total:
        made.append(min(room, max(4, int(chance.lognormvariate(5.5, 0.8)))))
    return made


def test_best_fit_places_more_than_first_fit():
    ours = theirs = 0
    for seed in range(20):
        drafts = [draft(number, size) for number, size in enumerate(sizes(seed, 16 * 1024 * 1.02, 1024))]
        packed, _ = pack_block(drafts, 16, 1024, None, random.Random(seed))
        placed = sum(len(one) for stream in packed for one in stream)
        ours += placed
        theirs += first_fit(drafts, 16, 1024)
    room = 20 * 16 * 1024
    assert ours > theirs
    assert ours / room >= 0.98


documents = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 20), st.booleans()), max_size=60)


@settings(deadline=None)
@given(documents, st.integers(1, 6), st.integers(0, 9))
def test_every_document_is_placed_or_counted_and_no_room_is_exceeded(given_documents, streams, seed):
    drafts = [
        draft(number, tokens, 0 if can_be_cut else patches, can_be_cut)
        for number, (tokens, patches, can_be_cut) in enumerate(given_documents)
    ]
    packed, lost = pack_block(drafts, streams, 64, 20, random.Random(seed))
    assert len(packed) == streams
    assert all(sum(map(len, stream)) <= 64 for stream in packed)
    assert all(sum(one.patches for one in stream) <= 20 for stream in packed)
    whole = [one for stream in packed for one in stream if not one.was_cut]
    pieces = {one.token_ids[0] for stream in packed for one in stream if one.was_cut}
    assert len(whole) + len(pieces) + lost["no room in its block"] == len(drafts)
    assert lost["cut to fill gaps"] == len(pieces)


def test_long_documents_do_not_crowd_into_the_same_streams():
    drafts = [draft(0, 100) for _ in range(40)] + [draft(1, 10) for _ in range(400)]
    packed, _ = pack_block(drafts, 8, 1000, None, random.Random(0))
    shares = [sum(len(one) for one in stream if one.token_ids[0] == 0) for stream in packed]
    assert max(shares) < 900


def test_text_without_room_fills_gaps_in_pieces():
    drafts = [draft(number, 50) for number in range(4)] + [draft(9, 30, can_be_cut=True)]
    packed, lost = pack_block(drafts, 4, 64, None, random.Random(0))
    pieces = [len(one) for stream in packed for one in stream if one.token_ids[0] == 9]
    assert sorted(pieces) == [14, 14]
    assert lost == {"cut to fill gaps": 1}
