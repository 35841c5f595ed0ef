"""The reference machine: it keeps every event in its journal until the backend says "committed", whatever a broker forgets.

No I/O but the journal's, no clock but the one that callers pass in. What a machine does:

- It writes an event down, then publishes it, from the journal: objects as they come, arrays while it has a backlog to drain.
- Its mark {boot, seq} says: of this boot, everything up to seq is committed. It trims its journal up to there.
- It begins to publish a boot only when all of the boot before is committed. So a mark of a boot speaks for all before it.
- It sends again from the mark on after a reconnect, or when the mark has stood still for `stall` seconds: the wait doubles
  up to `longest` while nothing moves, and begins anew when something does. What comes twice, the backend counts once.
- A message that the broker refuses is not published: the machine waits as long before it tries again.
- It is never more than `ahead` events past its mark: so much can be sent twice, and so much a broker has to hold.
- Its messages are as long as the broker takes; an event that is longer by itself, and all behind it, waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES, Committed
from simulators.journal import Journal

_NOT_HELD: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Publication:
    """One message of a machine: events `first` to `first + n - 1` of a boot."""

    topic: str
    payload: bytes
    boot: int
    first: int
    n: int


class Machine:
    """What one machine publishes next, and how far it is committed.

    ahead            events past the mark, at most
    stall, longest   seconds without progress after which it sends again, at first and at most
    jitter           draws the factor (about 1) by which waits differ, so that machines do not all send again at once
    """

    def __init__(
        self,
        topic: str,
        journal: Journal,
        *,
        ahead: int = 8192,
        stall: float = 10.0,
        longest: float = 120.0,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.25),
    ) -> None:
        self.topic = topic
        self.journal = journal
        self.sent_again = 0
        """Events that were published before, counted each time."""
        self.most_bytes = MAX_MESSAGE_BYTES
        """Bytes of a payload that the broker takes."""
        self.too_long: Publication | None = None
        """What cannot be published as it is longer than that."""
        self.waits_since: float | None = None
        """Since when something is on its way without any progress of the mark, over reconnects."""
        self._ahead = ahead
        self._stall, self._longest, self._jitter = stall, longest, jitter
        self._boot = self._committed = 0
        self._next = self._reached = 1  # below `_reached` all was published at least once
        boots = journal.boots()
        self._begin(boots[0] if boots else journal.boot)
        self._patience = stall * jitter()
        self._moved = 0.0
        self._held = _NOT_HELD  # after a refusal: nothing is sent before
        self._drains = False  # a backlog, until nothing is left to send
        self._skip_finished()

    def append(self, lines: bytes, first: int, n: int, backlog: bool = False) -> int:
        """Write down n events (a line each, from `first` on) of the journal's boot; see Journal.append.

        backlog   whether they are of the past: what is sent then are arrays
        """
        self._drains |= backlog
        new = self.journal.append(lines, first, n)
        if new and self._committed == 0 and self._boot == self.journal.boot:
            # a journal that begins further on: what was before it is not ours to send
            self._committed = max(self._committed, self.journal.span(self._boot)[0] - 1)
            self._next = max(self._next, self._committed + 1)
            self._reached = max(self._reached, self._next)
        self._skip_finished()
        return new

    @property
    def uncommitted(self) -> int:
        """Events in the journal that are not committed."""
        spans = {boot: self.journal.span(boot) for boot in self.journal.boots() if boot >= self._boot}
        total = sum(following - first for first, following in spans.values())
        first = spans.get(self._boot, (self._committed + 1, 0))[0]
        return total - max(0, self._committed + 1 - first) if total else 0

    def publication(self, now: float) -> Publication | None:
        """The next message, or None while there is none to send; then it has been sent, as far as the machine knows."""
        if now < self._held:
            return None
        end = self.journal.span(self._boot)[1]
        if self._next > self._committed + 1 and now - self._moved > self._patience:
            self._send_again(now)
            self._lose_patience()
        room = self._committed + self._ahead + 1 - self._next
        if self._next >= end or room <= 0:
            self._drains &= self._next < end
            return None
        self._drains |= end - self._next > MAX_BACKLOG
        payload, n = self.journal.read(self._boot, self._next, min(room, MAX_BACKLOG if self._drains else 1), self.most_bytes)
        publication = Publication(self.topic, payload, self._boot, self._next, n)
        self.too_long = publication if len(payload) > self.most_bytes else None
        if self.too_long:
            return None
        if self._next == self._committed + 1:
            self._moved = now  # nothing was on its way: the mark's time begins now
        if self.waits_since is None:
            self.waits_since = now
        self.sent_again += max(0, min(self._reached, self._next + n) - self._next)
        self._next += n
        self._reached = max(self._reached, self._next)
        return publication

    def connected(self, now: float) -> None:
        """A connection is new: whatever was on its way may be lost."""
        self._send_again(now)
        if self._held == _NOT_HELD:
            self._patience = self._stall * self._jitter()

    def refused(self, now: float) -> None:
        """The broker has not taken a message: nothing more until some time has passed, then from the mark on."""
        self.waits_since = None
        if now >= self._held:
            self._held = now + self._patience
            self._lose_patience()
        self._send_again(now)

    def heard(self, mark: Committed, now: float) -> int:
        """Take in a mark; returns how many events it frees. Old marks and those of other boots say nothing."""
        end = self.journal.span(self._boot)[1] or 1
        seq = min(mark.seq, end - 1)
        if mark.boot != self._boot or seq <= self._committed:
            return 0
        freed = seq - self._committed
        self._committed = seq
        self._next = max(self._next, seq + 1)
        self._reached = max(self._reached, self._next)
        self._moved = now
        self.waits_since = now if self._reached > seq + 1 else None
        self._held = _NOT_HELD
        self._patience = self._stall * self._jitter()
        self.journal.trim(Committed(self._boot, seq))
        self._skip_finished()
        return freed

    def is_outrun_by(self, mark: Committed) -> bool:
        """Whether the mark speaks of events that this journal has never held: its boot was used before."""
        return (mark.boot, mark.seq) >= (self.journal.boot, self.journal.following)

    def _lose_patience(self) -> None:
        self._patience = min(2 * self._patience, self._longest * self._jitter())

    def _send_again(self, now: float) -> None:
        self._next = self._committed + 1
        self._moved = now
        self._drains = True

    def _skip_finished(self) -> None:
        """Go on with the next boot once all of this one is committed."""
        while self._committed + 1 >= self.journal.span(self._boot)[1]:
            later = [boot for boot in self.journal.boots() if boot > self._boot]
            if not later:
                if self.journal.boot > self._boot:
                    self._begin(self.journal.boot)
                return
            self._begin(later[0])

    def _begin(self, boot: int) -> None:
        first, following = self.journal.span(boot)
        mark = self.journal.mark
        self._boot = boot
        self._committed = max(0, first - 1)
        if mark is not None and following:
            noted = following - 1 if mark.boot > boot else min(mark.seq, following - 1) if mark.boot == boot else 0
            self._committed = max(self._committed, noted)
        self._next = self._reached = self._committed + 1
