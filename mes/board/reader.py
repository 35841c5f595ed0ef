"""One reader of the database, for any number of pages.

The rollup tells, in the transaction that replaces sums, of which line: that line is read once and handed to `Feed`. All lines
are read every few seconds as well: time passes, and a standby tells nobody anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from mes.board import figures
from mes.board.feed import Feed
from mes.errors import Refused, Unavailable
from mes.store import board
from mes.store.connection import Connection, connect, translated

log = logging.getLogger(__name__)

POLL_S: Final = 3.0  # between two readings of everything, whatever we are told
DAYS: Final = 31  # today and the thirty before it
DAYS_S: Final = 30.0  # between two readings of the days that have been
HEARING_S: Final = 0.5  # so soon it is noticed that reading is to end
RETRY_S: Final = 1.0
SHARE: Final = 0.3  # of the time at most is spent reading


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
        self._tells = False
        self._days_due = 0.0

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
                self._read_days(connection)  # before the lines, so that who sees these has all
                self._read_lines(connection, None)
                once = True
                self._follow(connection)
            except (Unavailable, Refused) as why:
                if isinstance(why, Refused) and not once:
                    raise
                if connection:
                    connection.close()
                connection = None
                self._post(self._feed.fail, why)
                self._stopping.wait(RETRY_S)
        if connection:
            connection.close()

    def _follow(self, connection: Connection) -> None:
        """Read the lines that we are told of, until everything is to be read again."""
        due = time.monotonic() + POLL_S
        while not self._stopping.is_set() and (left := due - time.monotonic()) > 0:
            if not self._tells:
                self._stopping.wait(left)
                continue
            for line in board.changed(connection, min(left, HEARING_S)):
                self._read_lines(connection, line)

    def _read_lines(self, connection: Connection, line: str | None) -> None:
        began = time.monotonic()
        lines = [figures.line(row) for row in board.lines(connection, line)]
        self._post(self._feed.show, lines, line is None)
        spent = time.monotonic() - began
        self._stopping.wait(spent / SHARE - spent)

    def _read_days(self, connection: Connection) -> None:
        if time.monotonic() >= self._days_due:
            self._post(self._feed.show_days, figures.days(board.days(connection, DAYS)))
            self._days_due = time.monotonic() + DAYS_S

    def _connect(self) -> Connection:
        connection = connect(self._database, application="mes board")
        with translated(self._database):
            connection.execute("SET default_transaction_read_only = on")
        self._tells = board.listen(connection)
        self._days_due = 0.0
        return connection

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *arguments)
