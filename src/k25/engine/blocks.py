"""The cache's blocks: who holds them, which hold a known prompt beginning, which may be overwritten.

A block is free, referenced by one or more requests, or reusable: unreferenced but still holding tokens that a later
request may begin with. Reusable blocks are overwritten when no free one is left, the least recently used first.
"""

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """Bookkeeping for `blocks` blocks; it stores no latents."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self.evictions = 0
        self._free = list(range(blocks))
        self._references = [0] * blocks
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._reusable: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free) + len(self._reusable)

    @property
    def reusable(self) -> int:
        """Unreferenced blocks that still hold a known beginning."""
        return len(self._reusable)

    def allocate(self) -> int:
        """Take one block. There must be one available."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._reusable.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
            self.evictions += 1
        self._references[block] = 1
        return block

    def register(self, block: int, key: bytes) -> None:
        """Make a full, referenced block findable; if another block has the key already, that one stays."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def find(self, key: bytes) -> int | None:
        """The block registered under `key`."""
        return self._block_of.get(key)

    def is_reusable(self, block: int) -> bool:
        """Whether sharing the block takes it out of the available ones."""
        return block in self._reusable

    def share(self, block: int) -> None:
        """Reference a registered block once more."""
        self._reusable.pop(block, None)
        self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one reference to each block of a request, in the request's order."""
        # A beginning is worth more than its continuation, which is useless alone: the last block goes first.
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._key_of:
                    self._reusable[block] = None
                else:
                    self._free.append(block)

    def forget(self) -> None:
        """Drop all keys: what the blocks hold is no longer what a request would compute."""
        self._free.extend(self._reusable)
        self._reusable.clear()
        self._key_of.clear()
        self._block_of.clear()
