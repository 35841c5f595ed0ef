"""What has been received from each machine, exactly: sequence numbers of a boot as ranges.

A machine that reports in order has one range. With this in memory, kept equal to the database by the transaction of
the rows, "is this event new?" is answered without asking an index, after a restart as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

Range = tuple[int, int]
"""Half open: [first, next)."""


class Received:
    """Sequence numbers of one boot of one machine, as disjoint ranges in order."""

    __slots__ = ("_nexts", "_starts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._nexts: list[int] = []
        for first, following in sorted(ranges):
            self._starts.append(first)
            self._nexts.append(following)

    @property
    def ranges(self) -> list[Range]:
        return list(zip(self._starts, self._nexts, strict=True))

    def add(self, seq: int) -> bool:
        """Take note of `seq`; False if it is there already."""
        starts, nexts = self._starts, self._nexts
        if nexts and seq == nexts[-1]:  # in order
            nexts[-1] += 1
            return True
        at = bisect_right(starts, seq) - 1
        if at >= 0 and seq < nexts[at]:
            return False
        joins_left = at >= 0 and nexts[at] == seq
        joins_right = at + 1 < len(starts) and starts[at + 1] == seq + 1
        if joins_left and joins_right:
            nexts[at] = nexts[at + 1]
            del starts[at + 1], nexts[at + 1]
        elif joins_left:
            nexts[at] += 1
        elif joins_right:
            starts[at + 1] -= 1
        else:
            starts.insert(at + 1, seq)
            nexts.insert(at + 1, seq + 1)
        return True

    def extend(self, first: int, n: int) -> bool:
        """Take note of [first, first + n) if it goes on where the last range ends, or begins a new last one; else False."""
        if not self._nexts or first > self._nexts[-1]:
            self._starts.append(first)
            self._nexts.append(first + n)
            return True
        if first == self._nexts[-1]:
            self._nexts[-1] += n
            return True
        return False

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._starts, seq) - 1
        return at >= 0 and seq < self._nexts[at]


class Ledger:
    """`Received` by (machine id, boot)."""

    def __init__(self, received: dict[tuple[int, int], Received] | None = None) -> None:
        self._received = received or {}

    def of(self, machine_id: int, boot: int) -> Received:
        """The sequence numbers of this boot; none yet where it is new."""
        received = self._received.get((machine_id, boot))
        if received is None:
            received = self._received[machine_id, boot] = Received()
        return received

    def add(self, machine_id: int, boot: int, seq: int) -> bool:
        """Take note of an event; False if it is a duplicate."""
        return self.of(machine_id, boot).add(seq)

    def extend(self, machine_id: int, boot: int, first: int, n: int) -> bool:
        """Take note of n events in a row, if all lie beyond what is known; else False, and nothing is noted."""
        return self.of(machine_id, boot).extend(first, n)


class Promise(NamedTuple):
    """A machine was told that all of `boot` up to `seq` is committed."""

    machine_id: int
    boot: int
    seq: int


class Unkept(NamedTuple):
    """A promise that the database does not keep: it holds all of that boot up to `holds` only."""

    machine_id: int
    boot: int
    seq: int
    holds: int
