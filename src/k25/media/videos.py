"""Videos: counted from their containers, sampled frames decoded by seeking.

A scan of the packets, which decodes nothing, gives the exact number of frames, their times in order of display and the
key frames. Reading then decodes only the runs that hold sampled frames: it jumps to a key frame where that skips more
frames than a jump costs, and within a run leaves out frames that no other frame needs. Rotation follows the container;
audio and cover pictures are ignored.
"""

import bisect
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import av
import av.container
import av.error
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from k25.errors import InputError
from k25.media.config import MediaLimits
from k25.media.sources import AVI, MATROSKA, MP4, MediaContent

# A jump empties the decoder's pipeline; refilling it costs about as much as decoding this many frames.
JUMP_COST_FRAMES = 8

_BUFFER_BYTES = 1 << 18
_UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class VideoInfo:
    """A video in numbers: upright frame size in pixels, frames, frames per second, seconds, codec."""

    width: int
    height: int
    frames: int
    fps: float
    seconds: float
    codec: str


@dataclass(frozen=True)
class _FrameIndex:
    """Display times (in the stream's time base) of all frames and of the key frames, both ascending."""

    times: list[int]
    keys: list[int]

    def runs(self, wanted: Sequence[int]) -> list[list[int]]:
        """Ascending `wanted` times grouped into runs; each run is decoded forward from the key frame before it."""
        runs: list[list[int]] = []
        for time in wanted:
            if runs and self._frames_between(runs[-1][-1], self.key_before(time)) < JUMP_COST_FRAMES:
                runs[-1].append(time)
            else:
                runs.append([time])
        return runs

    def key_before(self, time: int) -> int:
        """The last key frame at or before `time`, or the first frame of all."""
        position = bisect.bisect_right(self.keys, time)
        return self.keys[position - 1] if position else self.times[0]

    def _frames_between(self, early: int, late: int) -> int:
        return bisect.bisect_left(self.times, late) - bisect.bisect_left(self.times, early)


class VideoFile:
    """An opened video; a context manager. `info` is known from the start, `read` decodes sampled frames.

    Opening scans the packets and decodes one frame, which tells the rotation and whether the codec is readable at all.

    Raises:
        InputError: the content is damaged, encrypted, has no picture track or exceeds the limits.
    """

    def __init__(self, source: MediaContent, limits: MediaLimits) -> None:
        self._source, self._limits = source, limits
        self._container, self._stream = self._open()
        try:
            with self._reading():
                self._index, count = self._scan()
                self._rewind()
                first = next(self._decode(), None)
            if first is None:
                raise self._damaged("no frame can be decoded")
            self._rotation = first.rotation % 360
            width, height = (first.height, first.width) if self._rotation in (90, 270) else (first.width, first.height)
            fps = self._fps(count)
            self.info = VideoInfo(width, height, count, fps, count / fps, self._stream.codec_context.name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of these ascending numbers, upright, as 8-bit RGB.

        A damaged frame is replaced by the frame shown before it, as a player does.

        Raises:
            InputError: more than half of the frames are damaged.
        """
        given = damaged = 0
        with self._reading():
            pairs = self._read_in_order(numbers) if self._index is None else self._read_by_time(self._index, numbers)
            for frame, exact in pairs:
                damaged += not exact
                if damaged * 2 > len(numbers):
                    break
                yield self._upright(frame)
                given += 1
        if given < len(numbers):
            raise self._damaged("most of its frames cannot be decoded")

    def _open(self) -> tuple[av.container.InputContainer, VideoStream]:
        name, found = self._source.name, self._source.format
        if self._source.data is not None:
            place: object = io.BytesIO(self._source.data)
        else:
            # The prefix keeps FFmpeg from reading a file name such as "http:x" as an address.
            place = f"file:{Path(str(self._source.path)).absolute()}"
        with self._reading():
            container = av.open(
                place,
                "r",
                format=found.ffmpeg,
                metadata_errors="replace",
                buffer_size=_BUFFER_BYTES,
                options={"max_pixels": str(self._limits.max_pixels)},
            )
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            container.close()
            raise InputError(f"{name}: has no picture track that can be read; give a video")
        stream = streams[0]
        if stream.codec_context.width * stream.codec_context.height > self._limits.max_pixels:
            container.close()
            raise InputError(f"{name}: its frames exceed the limit of {self._limits.max_pixels} pixels; shrink it")
        stream.thread_type = "AUTO"
        return container, stream

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = self._open()

    def _rewind(self) -> None:
        """Back to the first frame; by opening anew where a container has no index to find it by."""
        if self._index is not None and self._source.format in (MP4, MATROSKA, AVI):
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(self._index.times[0], stream=self._stream, backward=True)
                return
        self._reopen()

    def _scan(self) -> tuple[_FrameIndex | None, int]:
        """The frame index, or None where times are missing or ambiguous; and the number of frames."""
        times: list[int | None] = []
        keys: list[int] = []
        decode_time, ordered = None, True
        if any(entry.pos + entry.size > self._container.size for entry in self._stream.index_entries):
            raise self._damaged("it is cut short")
        for packet in self._container.demux(self._stream):
            # A packet marked corrupt is the cut end of a stream, or broken in transmission.
            if packet.size == 0 or packet.is_discard or packet.is_corrupt:
                continue
            if packet.has_sidedata("encryption_info"):
                raise InputError(f"{self._source.name}: is encrypted; give a copy without encryption")
            times.append(packet.pts)
            if packet.dts is not None:
                ordered &= decode_time is None or packet.dts >= decode_time
                decode_time = packet.dts
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        known = sorted(time for time in times if time is not None)
        if ordered and len(known) == len(times) and len(set(known)) == len(known) > 0:
            return _FrameIndex(known, sorted(keys)), len(known)
        self._reopen()
        count = sum(1 for _ in self._decode())
        if count == 0:
            raise self._damaged("no frame can be decoded")
        return None, count

    def _fps(self, count: int) -> float:
        """Average rate that the container declares, or the measured one where that is absent or far off."""
        declared = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        if self._index is None or count < 2 or self._stream.time_base is None:
            return declared or 1.0
        measured = (count - 1) / float((self._index.times[-1] - self._index.times[0]) * self._stream.time_base)
        return declared if measured / 2 < declared < measured * 2 else measured

    def _decode(self, exact: set[int] | None = None) -> Iterator[VideoFrame]:
        """Decode onward; frames outside `exact` that no other frame needs are left out."""
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            # A decoder that is not open yet might take the setting for good.
            needed = exact is None or packet.pts is None or packet.pts in exact or not context.is_open
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame)
                    yield frame

    def _read_in_order(self, numbers: Sequence[int]) -> Iterator[tuple[VideoFrame, bool]]:
        self._reopen()
        wanted, position, frame = list(numbers), 0, None
        for number, frame in enumerate(self._decode()):
            while position < len(wanted) and wanted[position] == number:
                yield frame, True
                position += 1
            if position == len(wanted):
                return
        if frame is not None:
            yield from ((frame, False) for _ in wanted[position:])

    def _read_by_time(self, index: _FrameIndex, numbers: Sequence[int]) -> Iterator[tuple[VideoFrame, bool]]:
        times = [index.times[number] for number in numbers]
        done = 0
        for run in index.runs(times):
            key = index.key_before(run[0])
            if key > index.times[0]:
                frames = self._run_from(key, run)
            else:
                self._rewind()
                frames = self._run(run)
            if frames is None:
                # This container cannot jump, or the place is damaged: take all the rest in one pass.
                self._reopen()
                yield from self._run(times[done:])
                return
            yield from frames
            done += len(run)

    def _run_from(self, key: int, run: list[int]) -> Iterator[tuple[VideoFrame, bool]] | None:
        """The frames of `run` after a jump to `key`, or None if the container lands behind the run's first frame."""
        try:
            self._container.seek(key, stream=self._stream, backward=True)
        except av.error.FFmpegError:
            return None
        frames = self._run(run)
        first = next(frames, None)
        if first is None or not first[1]:
            return None
        return _chain(first, frames)

    def _run(self, run: list[int]) -> Iterator[tuple[VideoFrame, bool]]:
        """Decode onward until every time of `run` was met; a time without a frame gets the frame shown at it."""
        shown: VideoFrame | None = None
        position = 0
        for frame in self._decode(set(run)):
            while position < len(run) and frame.pts is not None and run[position] < frame.pts:
                yield shown or frame, False
                position += 1
            while position < len(run) and run[position] == frame.pts:
                yield frame, True
                position += 1
            if position == len(run):
                return
            shown = frame
        if shown is not None:
            yield from ((shown, False) for _ in run[position:])

    def _upright(self, frame: VideoFrame) -> Image.Image:
        image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
        turn = _UPRIGHT.get(self._rotation)
        return image if turn is None else image.transpose(turn)

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self._source.name}: {reason}; the video is damaged, export it again")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, EOFError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise self._damaged(f"cannot be read as {self._source.format.name} ({reason})") from None


def _chain(
    first: tuple[VideoFrame, bool], rest: Iterator[tuple[VideoFrame, bool]]
) -> Iterator[tuple[VideoFrame, bool]]:
    yield first
    yield from rest
