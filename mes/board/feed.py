"""One reader of the database, any number of pages.

The thread `Reader` asks once a second and hands the answer to `Feed`, on the event loop, which makes one message of it
for every open page. A page that reads slowly misses some messages and gets the newest: nothing piles up.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from mes.board.figures import lines_now
from mes.errors import Refused, Unavailable
from mes.store import report
from mes.store.connection import Connection, connect, translated

log = logging.getLogger(__name__)

READ_S: Final = 1.0  # between two readings
STALE_S: Final = 5.0  # a database that has not answered for so long is away
BEAT_S: Final = 1.0  # pages hear from us at least so often, so that they notice when they do not


class Feed:
    """The newest figures, and whether they are still true. All methods are for the event loop's thread.

    page    names the version of the page: one that shows another version loads itself anew
    """

    def __init__(self, page: str) -> None:
        self._page = page
        self._lines = b"[]"
        self._figures = b""  # the message that brings the lines
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

    def state(self) -> dict[str, Any]:
        """What pages are told beside the figures: `since` is when they were last true, None if never; `quiet` is for
        how many seconds each line has had no new event, as far as we have seen."""
        now = time.monotonic()
        live = self.is_live
        return {
            "state": "live" if live else "no_data",
            "since": self._read_at,
            "quiet": {line: int(now - changed) for line, (_, changed) in self._progress.items()} if live else {},
            "page": self._page,
        }

    def now(self) -> bytes:
        """State and lines as one JSON object."""
        return msgspec.json.encode(self.state() | {"lines": msgspec.Raw(self._lines)})

    def show(self, lines: list[dict[str, Any]]) -> None:
        """Take a new reading (see mes.board.figures.lines_now)."""
        was_live = self.is_live
        if self._complained:
            log.info("the database answers again")
            self._complained = False
        self._answering, self._read_at, self._read_clock = True, dt.datetime.now(dt.UTC), time.monotonic()
        progress = {line["line"]: line["day"] and (line["day"]["production_day"], line["day"]["events"]) for line in lines}
        known = self._progress
        self._progress = {
            line: known[line] if line in known and known[line][0] == at else (at, self._read_clock) for line, at in progress.items()
        }
        encoded = msgspec.json.encode(lines)
        changed = encoded != self._lines or not self._figures
        if changed:
            self._lines = encoded
            self._figures = _message("figures", encoded)
        if changed or not was_live:
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
        """Server-sent events for one page: `figures` at first and when they change, `state` each time."""
        yield b"retry: 1000\n\n"
        sent = b""
        while not self._closed:
            turn = self._turn
            if self._figures is not sent:
                sent = self._figures
                yield sent
            yield self._state
            await turn.wait()


class Reader(threading.Thread):
    """Reads the views, and reads on whatever becomes of the database.

    A daemon: a server that does not answer must not keep the program from ending. `ended` is called on the loop when
    reading has ended by itself: with the reason if the database refused from the start, else because of a fault of ours.
    """

    def __init__(self, database: str, feed: Feed, ended: Callable[[Refused | None], None]) -> None:
        super().__init__(name="read", daemon=True)
        self._database = database
        self._feed = feed
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()

    def run(self) -> None:
        """Called by `start`."""
        refusal: Refused | None = None
        try:
            self._read()
        except Refused as why:
            refusal = why
        finally:
            self._post(self._ended, refusal)

    def _read(self) -> None:
        connection: Connection | None = None
        once = False
        while not self._stopping.is_set():
            try:
                connection = connection or self._connect()
                self._post(self._feed.show, lines_now(report.board(connection)))
                once = True
            except (Unavailable, Refused) as why:
                if isinstance(why, Refused) and not once:
                    raise
                if connection:
                    connection.close()
                connection = None
                self._post(self._feed.fail, why)
            self._stopping.wait(READ_S)

    def _connect(self) -> Connection:
        connection = connect(self._database, application="mes board")
        with translated(self._database):
            connection.execute("SET default_transaction_read_only = on")
        return connection

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *arguments)


def _message(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
