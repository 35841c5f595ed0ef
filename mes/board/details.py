"""What one person asks for, a day, a station, a cell, answered once for all who ask the same at the same time."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from mes.board import figures
from mes.errors import Refused, Unavailable
from mes.present import count, percent
from mes.store import board, report
from mes.store.connection import Connection, connect, translated

FRESH_S: Final = 1.0  # so long an answer serves others too
_TIMEOUT: Final = "5s"  # of a question to the database
SERIAL_LENGTH: Final = 64  # of the wire contract


class Details:
    """Answers as JSON, None where there is no such thing. For the event loop's thread; Unavailable and Refused come from the database."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "details")
        self._connection: Connection | None = None
        self._answers: dict[Hashable, tuple[float, asyncio.Future[bytes | None]]] = {}

    def close(self) -> None:
        """Answer no more. A question under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def day(self, line: str, day: dt.date) -> bytes | None:
        """A line in a production day that has been, as the feed sends it for the newest."""

        def ask(connection: Connection) -> Any:
            lines = [figures.line(row) for row in board.lines(connection, line, day)]
            return next((line for line in lines if line["day"]), None)

        return await self._ask(("day", line, day), ask)

    async def station(self, line: str, station: str, day: dt.date | None) -> bytes | None:
        """A station of a line, in the newest production day unless another is named."""

        def ask(connection: Connection) -> Any:
            rows = [row for row in board.station(connection, line, station, day) if row["production_day"] or day is None]
            return _station(rows[0]) if rows else None

        return await self._ask(("station", line, station, day), ask)

    async def unit(self, serial: str) -> bytes | None:
        """The visits of a cell in order of time."""
        if not 0 < len(serial) <= SERIAL_LENGTH or "\0" in serial:
            return None

        def ask(connection: Connection) -> Any:
            visits = report.unit(connection, serial)
            zones = {row["line"]: ZoneInfo(row["zone"]) for row in board.zones(connection)} if visits else {}
            return {"unit": serial, "visits": [_visit(visit, zones[visit["line"]]) for visit in visits]} if visits else None

        return await self._ask(("unit", serial), ask)

    async def _ask(self, key: Hashable, ask: Callable[[Connection], Any]) -> bytes | None:
        now = time.monotonic()
        self._answers = {k: (at, answer) for k, (at, answer) in self._answers.items() if now - at < FRESH_S or not answer.done()}
        if key not in self._answers:
            self._answers[key] = now, asyncio.get_running_loop().run_in_executor(self._thread, self._answer, ask)
        return await asyncio.shield(self._answers[key][1])  # who goes away takes it from nobody else

    def _answer(self, ask: Callable[[Connection], Any]) -> bytes | None:
        """On the thread of the connection."""
        try:
            if self._connection is None:
                self._connection = connect(self._database, application="mes board: details")
                with translated(self._database):
                    self._connection.execute("SET default_transaction_read_only = on")
                    self._connection.execute(f"SET statement_timeout = '{_TIMEOUT}'")
            found = ask(self._connection)
        except (Unavailable, Refused):
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise
        return None if found is None else msgspec.json.encode(found)


def _station(row: figures.Row) -> dict[str, Any]:
    hours: dict[str, list[list[int]]] = {}
    for machine, hour, events in row["hours"] or ():
        hours.setdefault(machine, []).append([hour, events])
    day = row["production_day"]
    return {name: row[name] for name in ("line", "line_name", "station", "name", "section", "kind", "production_day", "is_over")} | {
        "text": {"name": figures.short(row["name"]), "date": figures.date(day) if day else "no events yet"},
        "machines": [_machine(m, hours.get(m["machine"], []), (row["states"] or {}).get(m["machine"])) for m in row["machines"] or ()],
        "defects": [figures.defect(found) for found in row["defects"] or ()],
        "cycle_times": row["cycle_times"] or [],
        "characteristics": [_characteristic(found) for found in row["characteristics"] or ()],
        "missed": [_missed(found, ZoneInfo(row["zone"])) for found in row["missed"] or ()],
    }


def _missed(found: figures.Row, zone: ZoneInfo) -> dict[str, Any]:
    return dict(found) | {"text": {"at": figures.clock(dt.datetime.fromisoformat(found["at"]), zone)}}


def _machine(machine: figures.Row, hours: list[list[int]], state: figures.Row | None) -> dict[str, Any]:
    lacks = [f"{count(machine[name])} {what}" for name, what in (("missing", "never came"), ("quarantined", "in the quarantine"))
             if machine[name]]  # fmt: skip
    text = {"received": count(machine["received"]), "completeness": percent(machine["completeness"]),
            "lacks": ", ".join(lacks)}  # fmt: skip
    return dict(machine) | {"hours": hours, "state": state, "text": text}


def _characteristic(found: figures.Row) -> dict[str, Any]:
    texts = {name: figures.plain(found[name]) for name in ("mean", "lowest", "highest", "nominal", "lsl", "usl")}
    return dict(found) | {
        "text": texts | {
            "name": found["characteristic"].replace("_", " "),
            "n": count(found["n"]),
            "sd": figures.plain(found["sd"], 3),
            "implausible": count(found["implausible"]),
        }
    }  # fmt: skip


def _visit(visit: figures.Row, zone: ZoneInfo) -> dict[str, Any]:
    at = visit["at"].astimezone(zone)
    return dict(visit) | {
        "text": {
            "at": f"{at:%Y-%m-%d %H:%M:%S}",
            "day": figures.date(visit["production_day"]) if visit["production_day"] else figures.DASH,
            "station": figures.short(visit["station_name"]),
            "cycle": figures.seconds(visit["cycle_s"]),
            "readings": [[name.replace("_", " "), figures.plain(value)] for name, value in sorted((visit["readings"] or {}).items())],
        }
    }
