"""Best-fit packing: documents into streams without cutting them, as far as that fills the streams.

"Fewer Truncations Improve Language Modeling", arXiv 2404.10830: best-fit packing, here with a second room for patches.
Deviation: plain best-fit-decreasing would put all long documents into the same few streams; so only documents beyond
half a stream come first, and a reserve of the shortest comes last, to fill the gaps. The rest stay in random order.
"""

import random
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from k25.train.data.drafts import Draft

_RESERVE = 0.15  # share of the tokens that is kept, as the shortest documents, for the gaps

NO_ROOM = "no room in its block"


@dataclass
class Stream:
    """A stream that is being filled, and what is left of its room."""

    tokens_left: int
    patches_left: float
    drafts: list[Draft] = field(default_factory=list)

    def add(self, draft: Draft) -> None:
        """Take a document that fits."""
        self.tokens_left -= len(draft)
        self.patches_left -= draft.patches
        self.drafts.append(draft)


def best_fit(drafts: Iterable[Draft], streams: Sequence[Stream]) -> list[Draft]:
    """Put each document, in the given order, into the stream that it fills most; return those that fit nowhere."""
    rooms = sorted((stream.tokens_left, place) for place, stream in enumerate(streams))
    left_over = []
    for draft in drafts:
        start = bisect_left(rooms, (len(draft), -1))
        fitting = (at for at in range(start, len(rooms)) if streams[rooms[at][1]].patches_left >= draft.patches)
        at = next(fitting, None)
        if at is None:
            left_over.append(draft)
            continue
        _, place = rooms.pop(at)
        streams[place].add(draft)
        insort(rooms, (streams[place].tokens_left, place))
    return left_over


def thin_out(drafts: Sequence[Draft], most: float, chance: random.Random) -> tuple[list[Draft], int]:
    """Documents of at most `most` tokens in all, chosen blindly, and how many were left out.

    Without it, whatever a block has too much of would be made up for by its shortest documents, which are packed last.
    """
    kept = []
    for draft in chance.sample(drafts, len(drafts)):
        if len(draft) <= most:
            kept.append(draft)
            most -= len(draft)
    return kept, len(drafts) - len(kept)


def pack_block(
    drafts: Sequence[Draft], streams: int, tokens: int, patches: int | None, chance: random.Random
) -> tuple[list[list[Draft]], Counter[str]]:
    """The documents of a block in its streams; what found no room, counted by reason.

    Args:
        drafts: each at most `tokens` long and with at most `patches` patches.
        streams: how many streams the block has.
        tokens: room of each.
        patches: room of each, or None for no limit.
        chance: decides the order in which documents are tried, and their order in a stream.
    """
    filled = [Stream(tokens, float("inf") if patches is None else patches) for _ in range(streams)]
    left_over = best_fit(_tried_order(drafts, tokens, chance), filled)
    lost = Counter[str]()
    _cut_into_gaps(left_over, filled, max(2, tokens // 16), lost)
    chance.shuffle(filled)
    for stream in filled:
        chance.shuffle(stream.drafts)
    return [stream.drafts for stream in filled], lost


def _tried_order(drafts: Sequence[Draft], tokens: int, chance: random.Random) -> list[Draft]:
    longest_first = sorted(drafts, key=len, reverse=True)
    long = [draft for draft in longest_first if len(draft) > tokens // 2]
    others = longest_first[len(long) :]
    reserved, budget = len(others), _RESERVE * sum(map(len, drafts))
    while reserved and budget > 0:
        reserved -= 1
        budget -= len(others[reserved])
    ordinary = others[:reserved]
    chance.shuffle(ordinary)
    return long + ordinary + others[reserved:]


def _cut_into_gaps(left_over: list[Draft], streams: list[Stream], least: int, lost: Counter[str]) -> None:
    """Let plain text fill the gaps of at least `least` tokens in pieces; what then remains of it is lost."""
    for draft in left_over:
        if not draft.can_be_cut:
            lost[NO_ROOM] += 1
            continue
        start = 0
        while start < len(draft):
            widest = max(streams, key=lambda stream: stream.tokens_left)
            size = min(widest.tokens_left, len(draft) - start)
            if size < min(least, len(draft)):
                break
            widest.add(draft.part(start, start + size))
            start += size
        lost[NO_ROOM if start == 0 else "cut to fill gaps"] += 1
