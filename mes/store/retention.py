"""How long events are kept. Sums stay for ever; an event goes with its whole day, and only when nobody will sum that day again.

First the horizon moves, in a transaction that whoever adds or counts events keeps out: from then on nobody relies on what lies
before. Then the days before it are dropped, one a transaction, while everybody goes on. What the days have to be for that is
said in SQL (migration 0009), so that `mes rollup`, a job of TimescaleDB and a person do the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mes.store.connection import Connection, connect, queries, translated


@dataclass(frozen=True, slots=True)
class Settings:
    """What the database holds.

    keep_days      events of days that ended longer ago are dropped; None: none
    compress_days  where TimescaleDB may, events are compressed after so many days; None: never
    horizon        events before are gone; None: none was ever dropped
    """

    keep_days: int | None
    compress_days: int | None
    horizon: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run would do.

    upto     events before would go
    wanted   would go by age alone
    waits    why not all of these: lines with the first day that is not closed, and the oldest bucket that waits to be summed
    """

    upto: dt.datetime
    wanted: dt.datetime
    waits: list[tuple[str, dt.date | None, dt.datetime | None]]


def settings(connection: Connection) -> Settings:
    with translated():
        row = connection.execute(queries()["retention"]).fetchone()
    assert row is not None
    return Settings(*row)


def keep(connection: Connection, days: int | None) -> None:
    """From now on keep events so many days, or for ever. What is gone stays gone."""
    with translated():
        connection.execute(queries()["keep_events"], [days])


def dropped(connection: Connection, most: int) -> list[tuple[Any, ...]]:
    """What was dropped, latest first: begin, end, when, by which role of the database."""
    with translated():
        return connection.execute(queries()["dropped"], [most]).fetchall()


def outlook(connection: Connection, days: int) -> Outlook:
    """What would go if so many days were kept."""
    with translated(), connection.transaction():
        row = connection.execute(queries()["droppable"], {"keep": days}).fetchone()
        assert row is not None
        upto, wanted = row
        waits = connection.execute(queries()["keeps_from_going"], {"upto": wanted}).fetchall() if upto < wanted else []
    return Outlook(upto, wanted, [(line, day, bucket) for line, day, bucket in waits if day or bucket])


def run(url: str, stopping: Callable[[], bool] = lambda: False) -> Iterator[dt.datetime]:
    """Drop what the settings let go, until nothing is left or `stopping` says so; yields the end of each day that has gone.

    Unavailable when somebody holds events for too long: to be tried again later.
    """
    with connect(url, application="mes retention") as connection, translated(url):
        connection.execute(queries()["advance_horizon"])
        while not stopping():
            row = connection.execute(queries()["drop_events"]).fetchone()
            if row is None or row[0] is None:
                return
            yield row[0]
