"""Who computes what in the next step: continuous batching with chunked prefill over a bounded pool of blocks.

Every running request whose prompt is done gets its next token in every step. Beside them a fixed number of prompt
tokens is dealt out in equal shares (a short prompt need not wait for a long one to finish). Requests are admitted in
the order of arrival, when the pool has blocks for their whole prompt; when a continued request finds no block, the
youngest running one gives up its blocks and is computed again later. The oldest request therefore always advances.
"""

import bisect
from dataclasses import dataclass

from k25.engine.blocks import BlockPool
from k25.engine.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """Tokens `start` to `end` of one request, to be computed in this step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether the request's next token is chosen after this step."""
        return self.end == len(self.sequence.tokens)

    @property
    def continues(self) -> bool:
        """Whether this is one token that follows a finished context, as opposed to a piece of a prompt."""
        return self.end - self.start == 1 and self.start > 0


class Scheduler:
    """Owns the queue, the running requests and the block pool."""

    def __init__(
        self, pool: BlockPool, *, block_size: int, max_running: int, prefill_tokens: int, prefix_reuse: bool
    ) -> None:
        self.pool = pool
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.root = b""
        self._block_size = block_size
        self._max_running = max_running
        self._prefill_tokens = prefill_tokens
        self._prefix_reuse = prefix_reuse

    def add(self, sequence: Sequence) -> None:
        """Queue a request by its arrival."""
        bisect.insort(self.waiting, sequence, key=lambda other: other.arrival)

    def remove(self, sequence: Sequence) -> None:
        """Take a request out, wherever it is, and release its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def plan(self) -> list[Work]:
        """The next step's work: continued requests first, then pieces of prompts. Admits and preempts as needed."""
        works = self._continue_running()
        self._admit()
        works += self._deal_prefill()
        return sorted(works, key=lambda work: not work.continues)

    def finish_step(self, works: list[Work]) -> None:
        """The work's latents are in the cache now: full blocks become findable."""
        for work in works:
            sequence = work.sequence
            first = sequence.computed // self._block_size
            sequence.computed = work.end
            if self._prefix_reuse:
                for index in range(first, work.end // self._block_size):
                    key = sequence.block_key(index, self._block_size)
                    if key is not None:
                        self.pool.register(sequence.blocks[index], key)

    def forget_cached(self, root: bytes) -> None:
        """The weights changed: nothing computed so far may be shared, and blocks in use mix versions from now on."""
        self.root = root
        self.pool.forget()
        for sequence in self.running:
            sequence.root = None
        for sequence in self.waiting:
            sequence.restart(root)

    def _continue_running(self) -> list[Work]:
        works = []
        for sequence in list(self.running):
            if sequence.pending != 1 or sequence.computed == 0 or sequence not in self.running:
                continue
            if self._grow(sequence):
                works.append(Work(sequence, sequence.computed, sequence.computed + 1))
        # Preemption takes the youngest, which comes last, so nobody already planned has lost its blocks.
        return works

    def _grow(self, sequence: Sequence) -> bool:
        """Make sure the next token has a place; False where the request itself had to give way."""
        while len(sequence.blocks) * self._block_size < len(sequence.tokens):
            if self.pool.available:
                sequence.blocks.append(self.pool.allocate())
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence.restart(self.root))
        sequence.restarted = True
        self.add(sequence)
        self.preemptions += 1

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running:
            sequence = self.waiting[0]
            shared = self._known_beginning(sequence)
            needed = -(-len(sequence.tokens) // self._block_size) - len(shared)
            taken = sum(self.pool.is_reusable(block) for block in shared)
            # One block stays back for every running request, so that admission does not cause preemption at once.
            reserve = len(self.running)
            if self.pool.available < needed + taken + reserve:
                return
            self.waiting.pop(0)
            for block in shared:
                self.pool.share(block)
            sequence.blocks = shared + [self.pool.allocate() for _ in range(needed)]
            sequence.computed = len(shared) * self._block_size
            if not sequence.restarted:
                sequence.cached = sequence.computed
            bisect.insort(self.running, sequence, key=lambda other: other.arrival)

    def _known_beginning(self, sequence: Sequence) -> list[int]:
        """Blocks that hold the request's first tokens; never the last token, whose scores are needed."""
        blocks: list[int] = []
        if self._prefix_reuse:
            for index in range((len(sequence.tokens) - 1) // self._block_size):
                key = sequence.block_key(index, self._block_size)
                block = None if key is None else self.pool.find(key)
                if block is None:
                    break
                blocks.append(block)
        return blocks

    def _deal_prefill(self) -> list[Work]:
        """Equal shares of the step's prompt tokens; what a short remainder leaves goes to the others."""
        ready = self._ready_for_prefill()
        ready.sort(key=lambda sequence: sequence.pending)
        works, left = [], self._prefill_tokens
        for number, sequence in enumerate(ready):
            share = min(sequence.pending, -(-left // (len(ready) - number)))
            if share:
                works.append(Work(sequence, sequence.computed, sequence.computed + share))
                left -= share
        return works

    def _ready_for_prefill(self) -> list[Sequence]:
        """Requests with prompt tokens to compute, without those whose next block another one is computing."""
        aligned, ready, underway = [], [], set()
        for sequence in self.running:
            if sequence.pending > 1 or sequence.computed == 0:
                self._skip_known(sequence)
                if sequence.computed % self._block_size:
                    ready.append(sequence)
                    underway.add(self._key_ahead(sequence))
                else:
                    aligned.append(sequence)
        for sequence in aligned:
            key = self._key_ahead(sequence)
            if key is None or key not in underway:
                ready.append(sequence)
                underway.add(key)
        return ready

    def _key_ahead(self, sequence: Sequence) -> bytes | None:
        """The hash under which the block that comes next will be findable; None for an unfinished last block."""
        index = sequence.computed // self._block_size
        if not self._prefix_reuse or (index + 1) * self._block_size >= len(sequence.tokens):
            return None
        return sequence.block_key(index, self._block_size)

    def _skip_known(self, sequence: Sequence) -> None:
        """Take over blocks that another request finished since this one was admitted."""
        while sequence.computed % self._block_size == 0:
            key = self._key_ahead(sequence)
            block = None if key is None else self.pool.find(key)
            if block is None:
                return
            index = sequence.computed // self._block_size
            if block != sequence.blocks[index]:
                self.pool.share(block)
                self.pool.release([sequence.blocks[index]])
                sequence.blocks[index] = block
            if not sequence.restarted and sequence.computed == sequence.cached:
                sequence.cached += self._block_size
            sequence.computed += self._block_size
