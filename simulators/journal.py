"""A machine's journal: its events on disk, as they go out, until the backend has committed them.

A folder for each machine. Segments `<boot>-<first seq>.ndjson` hold one event a line, in order and without gaps; they are
only appended to, and removed whole. The newest segment stays, so that boot and seq are never used twice. `mark` is how far
all is committed, as far as it was written down: an old one costs nothing but sending again. What a crash left half
written is cut off when the journal is opened again.

fsync is the owner's choice:
    always      an event is on the disk before it can be published: a loss of power loses none
    interval    `sync` is called every second: a loss of power costs at most that second's events, which nobody has counted
    never       the system writes when it likes, mostly within half a minute
In each case a kill -9 of the process loses nothing, since written pages are the system's. After a loss of power a machine
begins its next boot, so numbers of events that were lost are not used for others.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final, Literal

import msgspec

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES, Committed, decode_committed, encode
from mes.errors import ConfigError, MesError

Fsync = Literal["always", "interval", "never"]

_SEGMENT_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"(\d{10})-(\d{19})\.ndjson")


class JournalFull(MesError):
    """An event could not be written down: nothing of it is in the journal. Make room, then append it again."""


class _Identity(msgspec.Struct):
    boot: int
    seq: int


@dataclass(slots=True)
class _Segment:
    """`marks`: (seq, offset) of some events, in order, the first one included."""

    path: Path
    boot: int
    first: int
    following: int
    size: int
    marks: list[tuple[int, int]] = field(default_factory=list)


class Journal:
    """Events of one machine, from the oldest that is not trimmed to the newest.

    folder   of this machine alone; it is made when the first event comes
    boot     under which events are appended: by default the one after the newest that the folder knows, as after a restart
    """

    def __init__(self, folder: Path, boot: int | None = None, fsync: Fsync = "interval") -> None:
        self.folder = folder
        self.fsync = fsync
        self._unsynced: set[Path] = set()
        self._segments = _open(folder)
        self.mark = self._noted = _mark(folder / "mark")
        """How far all is committed, by the journal's owner."""
        newest = self._segments[-1].boot if self._segments else 0
        self.boot = newest + 1 if boot is None else boot
        if self.boot < newest:
            raise ConfigError(f"journal {folder} knows boot {newest}, so {self.boot} is over: begin with {newest + 1}")

    def boots(self) -> list[int]:
        """The boots of which something is there, oldest first."""
        return sorted({segment.boot for segment in self._segments})

    def span(self, boot: int) -> tuple[int, int]:
        """[first, following) of what is there of a boot; (0, 0) when that is nothing."""
        of = [segment for segment in self._segments if segment.boot == boot]
        return (of[0].first, of[-1].following) if of else (0, 0)

    @property
    def following(self) -> int:
        """The seq of the next event of this boot, where the journal knows."""
        return self.span(self.boot)[1] or 1

    def append(self, lines: bytes, first: int, n: int) -> int:
        """Write down n events (a line each, `first` and following) and return how many of them are new; those that are
        there already are passed over. All of them or, with JournalFull, none is written."""
        there = self.span(self.boot)[1]
        if there:
            if first > there:
                raise ConfigError(
                    f"journal {self.folder}: event {first} follows {there - 1}: its state and its journal do not belong together"
                )
            for _ in range(min(n, there - first)):
                lines, first, n = lines[lines.index(b"\n") + 1 :], first + 1, n - 1
        if n <= 0:
            return 0
        last = self._segments[-1] if there else None
        try:
            if last is None or last.size >= _SEGMENT_BYTES:
                last = self._begin(first)
            self._write(last, lines)
        except OSError as why:
            if last is not None and last.size == 0 and last is self._segments[-1]:
                self._drop(last)
            raise JournalFull(f"journal {self.folder}: {why.strerror}: the machine waits until there is room") from why
        last.marks.append((first, last.size))
        last.size += len(lines)
        last.following = first + n
        return n

    def read(self, boot: int, seq: int, most: int = MAX_BACKLOG, longest: int = MAX_MESSAGE_BYTES) -> tuple[bytes, int]:
        """A message's payload that begins with event `seq`, and how many events it holds: an object where it is one event,
        else an array of as many as follow in the segment and fit into `longest` bytes. (b"", 0) at the end. An event that is
        longer by itself is returned all the same."""
        at = bisect_right([(s.boot, s.first) for s in self._segments], (boot, seq)) - 1
        if at < 0 or self._segments[at].boot != boot or seq >= self._segments[at].following:
            return b"", 0
        segment = self._segments[at]
        known, offset = segment.marks[bisect_right(segment.marks, (seq, segment.size)) - 1]
        with segment.path.open("rb") as file:
            file.seek(offset)
            for _ in range(seq - known):
                offset += len(file.readline())
            file.seek(offset)
            data = file.read(min(longest - 1, segment.size - offset))
            if b"\n" not in data:  # with its end of line one event is as long as the message may be, or longer
                data += file.readline()
        there = data.count(b"\n")
        n = min(there, most)
        end = data.rindex(b"\n") + 1 if n == there else _end_of(data, n)
        if end < len(data) or seq + n < segment.following:
            self._remember(segment, seq + n, offset + end)
        lines = data[: end - 1]
        return (lines, 1) if n == 1 else (b"[" + lines.replace(b"\n", b",") + b"]", n)

    def trim(self, mark: Committed) -> None:
        """All up to the mark is committed: remove segments that end there, except the newest."""
        self.mark = mark
        while len(self._segments) > 1 and (self._segments[0].boot, self._segments[0].following - 1) <= (mark.boot, mark.seq):
            self._drop(self._segments[0])

    def sync(self) -> None:
        """To be called every second: note the mark, and with `interval` have on disk what was appended since the last time.
        JournalFull when the system cannot."""
        try:
            if self.mark != self._noted:
                part = self.folder / "mark.new"
                part.write_bytes(encode(self.mark))
                part.replace(self.folder / "mark")
                self._noted = self.mark
            while self._unsynced:
                path = next(iter(self._unsynced))
                with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                    os.fsync(file.fileno())
                self._unsynced.discard(path)
        except OSError as why:
            raise JournalFull(f"journal {self.folder}: {why.strerror}: the machine waits until it can be written") from why

    def _begin(self, first: int) -> _Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.boot:010}-{first:019}.ndjson"
        segment = _Segment(path, self.boot, first, first, 0)
        path.touch()
        if self.fsync != "never":
            _sync_folder(self.folder)
        self._segments.append(segment)
        return segment

    def _write(self, segment: _Segment, lines: bytes) -> None:
        with segment.path.open("r+b", buffering=0) as file:
            try:
                file.seek(segment.size)
                view = memoryview(lines)
                while view:
                    view = view[_write_some(file, view) :]
                if self.fsync == "always":
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(segment.size)
                raise
        if self.fsync == "interval":
            self._unsynced.add(segment.path)

    def _drop(self, segment: _Segment) -> None:
        segment.path.unlink(missing_ok=True)
        self._segments.remove(segment)

    @staticmethod
    def _remember(segment: _Segment, seq: int, offset: int) -> None:
        """So that reading on begins there; appended blocks are remembered anyway."""
        at = bisect_right(segment.marks, (seq, segment.size))
        if segment.marks[at - 1][0] != seq:
            segment.marks.insert(at, (seq, offset))


def _write_some(file: FileIO, data: memoryview) -> int:
    return file.write(data)


def _end_of(data: bytes, n: int) -> int:
    """Where the n-th line of `data` ends."""
    end = 0
    for _ in range(n):
        end = data.index(b"\n", end) + 1
    return end


def _open(folder: Path) -> list[_Segment]:
    segments = []
    for path in sorted(folder.glob("*.ndjson")):
        if not (match := _NAME.fullmatch(path.name)):
            raise ConfigError(f"journal {folder}: {path.name} is no segment of a journal: move it away")
        boot, first = int(match[1]), int(match[2])
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):  # the process or the machine died while it wrote
            with path.open("r+b") as file:
                file.truncate(end)
        n = data.count(b"\n")
        segment = _Segment(path, boot, first, first + n, end, [(first, 0)] if n else [])
        if n:
            _check(segment, data[data.rfind(b"\n", 0, end - 1) + 1 : end])
            segments.append(segment)
        elif segments and segments[-1].boot == boot:
            path.unlink()  # begun, and nothing written
        else:
            segments.append(segment)  # the first of its boot: the boot is known, and not to be used again
    return segments


def _check(segment: _Segment, last: bytes) -> None:
    try:
        identity = msgspec.json.decode(last, type=_Identity)
    except msgspec.DecodeError as why:
        raise ConfigError(f"journal {segment.path}: its last line is no event ({why}): move the file away") from why
    if (identity.boot, identity.seq) != (segment.boot, segment.following - 1):
        raise ConfigError(
            f"journal {segment.path}: its last event is {identity.boot}/{identity.seq}, not {segment.boot}/{segment.following - 1}:"
            " lines are missing, move the file away"
        )


def _mark(path: Path) -> Committed | None:
    try:
        return decode_committed(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
