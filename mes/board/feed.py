"""The newest figures, and one message of each for every open page.

A page that reads slowly misses some messages and gets the newest: nothing piles up.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import msgspec

from mes.board.watch import Broker

log = logging.getLogger(__name__)

STALE_S: Final = 8.0  # a database that has not answered for so long is away
BEAT_S: Final = 1.0  # pages hear from us at least so often, so that they notice when they do not


class Feed:
    """What pages are told. All methods are for the event loop's thread.

    page    names the version of the page: one that shows another version loads itself anew
    broker  what is known of the broker
    """

    def __init__(self, page: str, broker: Broker | None = None) -> None:
        self._page = page
        self._broker = broker or Broker()
        self._broker.told = self.tell
        self._lines: dict[str, bytes] = {}  # as JSON, in their order
        self._messages: dict[str, bytes] = {}  # what a page is to know, by what it is about
        self._state = b""
        self._turn = asyncio.Event()  # set, and replaced, when there is something to send
        self._closed = False
        self._answering = False
        self._complained = False
        self._read_at: dt.datetime | None = None
        self._read_clock = 0.0
        self._progress: dict[str, tuple[Any, float]] = {}  # line: its day and events, and when they last changed
        self.tell()

    @property
    def is_live(self) -> bool:
        """Whether the database answers: the figures are those of now."""
        return self._answering and time.monotonic() - self._read_clock < STALE_S

    def knows(self, line: str) -> bool | None:
        """Whether the plant has that line; None as long as nothing has been read."""
        return line in self._lines if self._read_at else None

    def state(self) -> dict[str, Any]:
        """What pages are told beside the figures.

        state    live, or no_database or no_broker: figures are not those of now, but of `since` (None: there were none)
        now      by our clock, by which ages are told
        quiet    for how many seconds each line has had no new event, as far as we have seen
        untaken  lines whose messages nobody takes from the broker, since when
        """
        now = time.monotonic()
        state, since = "live", self._read_at
        if not self.is_live:
            state = "no_database"
        elif self._broker.answers is False:
            state, since = "no_broker", self._broker.since
        live = state == "live"
        return {
            "state": state,
            "since": since,
            "now": dt.datetime.now(dt.UTC),
            "quiet": {line: int(now - changed) for line, (_, changed) in self._progress.items()} if live else {},
            "untaken": self._broker.untaken(list(self._lines)) if live else {},
            "page": self._page,
        }

    def now(self) -> bytes:
        """State and lines as one JSON object."""
        return msgspec.json.encode(self.state() | {"lines": [msgspec.Raw(line) for line in self._lines.values()]})

    def show(self, lines: Iterable[Mapping[str, Any]], everything: bool = True) -> None:
        """Take a new reading (see mes.board.figures.line), of every line or of some."""
        if self._complained:
            log.info("the database answers again")
            self._complained = False
        was_live = self.is_live
        self._answering, self._read_at, self._read_clock = True, dt.datetime.now(dt.UTC), time.monotonic()
        read = {line["line"]: line for line in lines}
        changed = everything and self._order(list(read))
        for path, line in read.items():
            progress = line["day"] and (line["day"]["production_day"], line["day"]["events"])
            if path not in self._progress or self._progress[path][0] != progress:
                self._progress[path] = progress, self._read_clock
            encoded = msgspec.json.encode(line)
            if path in self._lines and encoded != self._lines[path]:
                self._lines[path] = encoded
                self._messages[f"line {path}"] = _message("line", encoded)
                changed = True
        if changed or not was_live:
            self.tell()

    def show_days(self, days: Mapping[str, Any]) -> None:
        """Take a new reading of the days that have been (see mes.board.figures.days)."""
        for path, of_line in days.items():
            message = _message("days", msgspec.json.encode({"line": path, "days": of_line}))
            if self._messages.get(f"days {path}") != message:
                self._messages[f"days {path}"] = message
                self.tell()

    def fail(self, why: Exception) -> None:
        """Note that the database gave no answer."""
        if not self._complained:
            log.warning("no figures: %s", why)
            self._complained = True
        if self._answering:
            self._answering = False
            self.tell()

    def tell(self) -> None:
        """Wake every page."""
        self._state = _message("state", msgspec.json.encode(self.state()))
        self._turn.set()
        self._turn = asyncio.Event()

    def close(self) -> None:
        """End every page's stream."""
        self._closed = True
        self.tell()

    async def beat(self) -> None:
        """Wake every page now and then, until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.tell()

    async def messages(self) -> AsyncIterator[bytes]:
        """Server-sent events for one page: `lines`, `line` and `days` at first and when they change, `state` each time."""
        yield b"retry: 1000\n\n"
        sent: dict[str, bytes] = {}
        while not self._closed:
            turn = self._turn
            news = {about: message for about, message in self._messages.items() if sent.get(about) is not message}
            sent |= news
            yield b"".join(news.values()) + self._state
            await turn.wait()

    def _order(self, paths: list[str]) -> bool:
        """Have these lines and no others, in this order; whether that is news."""
        if list(self._lines) == paths and self._messages:
            return False
        self._lines = {path: self._lines.get(path, b"") for path in paths}
        self._progress = {path: progress for path, progress in self._progress.items() if path in self._lines}
        gone = {about for about in self._messages if about.partition(" ")[2] not in self._lines}
        kept = {about: message for about, message in self._messages.items() if about not in gone}
        self._messages = {"lines": _message("lines", msgspec.json.encode(paths))} | {k: m for k, m in kept.items() if k != "lines"}
        return True


def _message(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
