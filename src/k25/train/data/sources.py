"""Sources of drafts. A source is asked for a stretch of its token sequence and answers with the same drafts every time.

Task sources have no end: each block has its own range of sample numbers. File sources are read in epochs, each in an
order of its own, and a record belongs to the stretch in which it begins. Where a record begins is known without reading
it: its bytes, times the tokens per byte that the first records of the order were measured to have.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from k25.chat import parse_messages, parse_tools
from k25.errors import InputError
from k25.media import ImageInput, VideoInput, open_path, open_url
from k25.media.processor import MediaInput
from k25.tasks import Task, get_task
from k25.train.data.config import ConversationsSource, DataConfig, TasksSource, TextSource
from k25.train.data.drafts import Draft, Drafter, media_urls
from k25.train.data.records import BadRecordError, Records

_SAMPLES_PER_BLOCK = 1 << 24
_PATIENCE = 1000  # unusable samples in a row before a source is given up
_PROBED_RECORDS = 64

Taken = tuple[list[Draft], Counter[str]]


class Source(Protocol):
    """A source of the mixture."""

    name: str
    epoch_tokens: float | None

    def take(self, block: int, start: float, end: float) -> Taken:
        """The drafts of tokens `start` to `end` of this source, which fall into `block`; unusable samples by reason."""
        ...


def seeded(*key: object) -> random.Random:
    """Random numbers that belong to a key, equal on every machine."""
    return random.Random(int.from_bytes(blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()))


def fitted(draft: Draft, config: DataConfig) -> str | None:
    """Why a draft cannot be used, or None."""
    if len(draft) > config.document_limit:
        return "longer than longest_document"
    if config.vision_budget is not None and draft.patches > config.vision_budget:
        return "more patches than vision_budget"
    return None if any(draft.is_target) else "nothing to learn"


class TaskSource:
    """Endless samples of procedural tasks.

    Raises:
        InputError: for an unknown task, or difficulties that a task does not have.
    """

    epoch_tokens: float | None = None

    def __init__(self, name: str, source: TasksSource, config: DataConfig, drafter: Drafter) -> None:
        self.name = name
        self._source = source
        self._config = config
        self._drafter = drafter
        named = source.tasks
        weights = named if isinstance(named, dict) else dict.fromkeys([named] if isinstance(named, str) else named, 1.0)
        if not sum(weights.values()):
            raise InputError(f"source {name!r}: names no task with a positive weight")
        tasks = {task: get_task(task) for task in weights}
        self._tasks = list(tasks.values())
        self._difficulties = [_difficulties(name, task, source) for task in self._tasks]
        self._cumulative = list(accumulate(weights.values()))

    def take(self, block: int, start: float, end: float) -> Taken:
        """Samples of the block's range until there are enough tokens."""
        drafts: list[Draft] = []
        skipped: Counter[str] = Counter()
        wanted, failures = end - start, 0
        number = block * _SAMPLES_PER_BLOCK
        while wanted > 0:
            made = self._make(number)
            number += 1
            reasons = [fitted(draft, self._config) for draft in made]
            good = [draft for draft, reason in zip(made, reasons, strict=True) if reason is None]
            skipped.update(reason for reason in reasons if reason is not None)
            drafts += good
            wanted -= sum(map(len, good))
            failures = 0 if good else failures + 1
            if failures == _PATIENCE:
                raise InputError(f"source {self.name!r}: no sample can be used: {skipped.most_common(1)[0][0]}")
        return drafts, skipped

    def _make(self, number: int) -> list[Draft]:
        chance = seeded(self._config.seed, self.name, number)
        (place,) = chance.choices(range(len(self._tasks)), cum_weights=self._cumulative)
        task, difficulties = self._tasks[place], self._difficulties[place]
        (difficulty,) = chance.choices(list(difficulties), list(difficulties.values()))
        sample = task.sample(self._config.seed, number, difficulty)
        answers_only = self._source.loss == "answers"
        if self._source.form == "plain":
            return [self._drafter.task_plain(sample, answers_only=answers_only)]
        return self._drafter.task_chat(sample, answers_only=answers_only)


def _difficulties(name: str, task: Task, source: TasksSource) -> dict[int, float]:
    given = source.difficulty
    if given is None:
        given = (1, task.hardest)
    elif isinstance(given, int):
        given = (given, given)
    table = given if isinstance(given, dict) else dict.fromkeys(range(given[0], given[1] + 1), 1.0)
    kept = {difficulty: weight for difficulty, weight in table.items() if 1 <= difficulty <= task.hardest}
    if not sum(kept.values()):
        raise InputError(f"source {name!r}: difficulty: task {task.name!r} has difficulties 1 to {task.hardest} only")
    return kept


class RecordSource:
    """Epochs over the records of files.

    Args:
        name: of the source.
        records: the files.
        config: of the data.
        make: one record to drafts; raises BadRecordError or InputError for an unusable one.

    Raises:
        InputError: if none of the first records can be used.
    """

    def __init__(
        self,
        name: str,
        records: Records,
        config: DataConfig,
        make: Callable[[str | dict[str, Any], random.Random], list[Draft]],
    ) -> None:
        self.name = name
        self.problems = records.problems
        self._records = records
        self._config = config
        self._make = make
        self._order = lru_cache(maxsize=2)(self._epoch_order)
        self._epoch_bytes = int(records.sizes.sum())
        self._tokens_per_byte = self._measured()
        self.epoch_tokens: float | None = self._epoch_bytes * self._tokens_per_byte

    def take(self, block: int, start: float, end: float) -> Taken:  # noqa: ARG002 - files need no block
        """The records that begin in the stretch."""
        drafts: list[Draft] = []
        skipped: Counter[str] = Counter()
        for epoch, record in self._between(start / self._tokens_per_byte, end / self._tokens_per_byte):
            good, reasons = self._usable(epoch, record)
            drafts += good
            skipped.update(reasons)
        return drafts, skipped

    def _between(self, start: float, end: float) -> Iterator[tuple[int, int]]:
        epoch = int(start // self._epoch_bytes)
        while epoch * self._epoch_bytes < end:
            order, begins = self._order(epoch)
            offset = epoch * self._epoch_bytes
            first, last = np.searchsorted(begins, [start - offset, end - offset], side="left")
            for place in range(first, last):
                yield epoch, int(order[place])
            epoch += 1

    def _epoch_order(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The records' order in an epoch, and the byte at which each begins."""
        key = seeded(self._config.seed, self.name, "order", epoch).getrandbits(63)
        order = np.random.Generator(np.random.Philox(key)).permutation(len(self._records))
        sizes = self._records.sizes[order]
        return order, np.cumsum(sizes) - sizes

    def _usable(self, epoch: int, record: int) -> tuple[list[Draft], list[str]]:
        try:
            made = self._make(self._records.read(record), seeded(self._config.seed, self.name, epoch, record))
        except BadRecordError as error:
            return [], [str(error)]
        except InputError as error:
            return [], [_general(str(error))]
        reasons = [fitted(draft, self._config) for draft in made]
        good = [draft for draft, reason in zip(made, reasons, strict=True) if reason is None]
        return good, [reason for reason in reasons if reason is not None]

    def _measured(self) -> float:
        order, _ = self._order(0)
        tokens, size, reasons = 0, 0, []
        for record in map(int, order[:_PROBED_RECORDS]):
            good, why = self._usable(0, record)
            tokens += sum(map(len, good))
            size += int(self._records.sizes[record])
            reasons += why
        if not tokens:
            raise InputError(f"source {self.name!r}: none of its first records can be used: {reasons[0]}")
        return tokens / size


def _general(message: str) -> str:
    """An error's last clause, without the name of the one file or place that it speaks of."""
    return message.split(": ", 1)[-1].partition(";")[0]


def text_source(name: str, source: TextSource, config: DataConfig, drafter: Drafter) -> RecordSource:
    """A source of running text. Raises InputError if there is nothing to read."""
    longest = config.document_limit if config.too_long == "cut" else 1 << 40

    def make(record: str | dict[str, Any], chance: random.Random) -> list[Draft]:
        text = record if isinstance(record, str) else record.get(source.field)
        if not isinstance(text, str):
            raise BadRecordError(f"no text in field {source.field!r}")
        if not text.strip():
            raise BadRecordError("empty text")
        return [drafter.text(text, longest, chance)]

    return RecordSource(name, Records(source.path, texts=True), config, make)


def conversations_source(name: str, source: ConversationsSource, config: DataConfig, drafter: Drafter) -> RecordSource:
    """A source of recorded conversations. Raises InputError if there is nothing to read."""
    records = Records(source.path, texts=False)

    def make(record: str | dict[str, Any], chance: random.Random) -> list[Draft]:  # noqa: ARG001 - nothing is drawn
        assert isinstance(record, dict)
        messages = parse_messages(record)
        tools = parse_tools(record.get("tools") or [])
        media = _open_media(media_urls(messages), records.root)
        return drafter.conversation(
            messages, tools, media, answers_only=source.loss == "answers", thinking=source.thinking
        )

    return RecordSource(name, records, config, make)


def _open_media(urls: Sequence[tuple[str, bool]], root: Path) -> list[MediaInput]:
    media: list[MediaInput] = []
    for url, is_video in urls:
        if url.startswith("data:"):
            content = open_url(url)
        else:
            path = (root / url).resolve()
            if not path.is_relative_to(root.resolve()):
                raise BadRecordError("a media path leaves the source's folder")
            content = open_path(path)
        media.append(VideoInput(content) if is_video else ImageInput(content))
    return media
