"""What machines have sent against what is in the database: every event once, every figure as counted by hand."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from mes.contract import RESULTS, CellEvent

Sent = Mapping[tuple[str, int], list[CellEvent]]
"""The events of each (topic, boot), without a gap."""


@dataclass(frozen=True)
class Account:
    """How many events there are of each kind. `acked` are those that a broker has acknowledged, `duplicate` those that
    ingest has seen before, each time that it happens; `quarantined` counts messages, each once."""

    published: int
    acked: int
    stored: int
    duplicate: int
    quarantined: int

    def __str__(self) -> str:
        return " ".join(f"{name} {getattr(self, name):,}" for name in self.__dataclass_fields__)


def line_of(topic: str) -> str:
    return "/".join(topic.split("/")[3:6])


def path_of(topic: str) -> str:
    return "/".join(topic.split("/")[3:8])


def check(database: str, sent: Sent, acked: int, poison: Collection[tuple[str, bytes]] = frozenset()) -> Account:
    """Fail on any difference between what was sent and what there is.

    poison  messages that cannot be understood: topic and bytes
    """
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT path, e.boot, e.seq, (extract(epoch FROM e.at) * 1000)::bigint, e.unit, e.attempt, e.result"
            f" FROM mes.cell_event e JOIN {_MACHINE} USING (machine_id)"
        ).fetchall()
        quarantined = connection.execute("SELECT topic, payload FROM mes.quarantine").fetchall()
        ledger = connection.execute(
            f"SELECT path, g.boot, g.received::text, g.duplicates FROM mes.machine_ledger g JOIN {_MACHINE} USING (machine_id)"
        ).fetchall()
        marks = connection.execute("SELECT count(*) FROM mes.dirty_bucket").fetchall()[0][0]
        figures = {name: connection.execute(query).fetchall() for name, query in _FIGURES.items()}
    expected = {
        (path_of(topic), e.boot, e.seq, e.timestamp_ms, e.unit, e.attempt, RESULTS.index(e.result))
        for (topic, _), events in sent.items()
        for e in events
    }
    account = Account(len(expected) + len(poison), acked, len(rows), sum(row[3] for row in ledger), len(quarantined))
    stored = Counter(rows)
    assert not (twice := [row for row, n in stored.items() if n > 1]), f"{account}: stored twice: {twice[:5]}"
    assert not (lost := expected - stored.keys()), f"{account}: {len(lost)} lost: {sorted(lost)[:5]}"
    assert not (strange := stored.keys() - expected), f"{account}: {len(strange)} nobody sent: {sorted(strange)[:5]}"
    kept = {(topic, bytes(payload)) for topic, payload in quarantined}
    assert kept == set(poison), f"{account}: {len(set(poison) - kept)} not quarantined, {len(kept - set(poison))} too many"
    received = {(path_of(topic), boot): f"{{[1,{len(events) + 1})}}" for (topic, boot), events in sent.items() if events}
    noted = {(path, boot): ranges for path, boot, ranges, _ in ledger if (path, boot) in received}
    assert noted == received, f"{account}: the ledger differs"
    assert marks == 0, f"{account}: {marks} marks stand"
    for name, counted in _count(sent).items():
        assert figures[name] == counted, f"{account}: report.{name}: {figures[name]} is not {counted}"
    return account


_MACHINE = """(
    SELECT m.machine_id, l.path || '/' || s.code || '/' || m.code AS path
    FROM mes.machine m JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
) m"""
_FIGURES = {
    "daily_throughput": "SELECT line, production_day, good, scrap, events FROM report.daily_throughput WHERE events > 0 ORDER BY 1, 2",
    "station_yield": "SELECT line, production_day, station, inspected, first_pass_good, good, rework, scrap"
    " FROM report.station_yield ORDER BY line, production_day, station_seq",
}


def _count(sent: Sent) -> dict[str, list[tuple[Any, ...]]]:
    """The figures by hand. Production days of both plants begin at 08:00 in China, which is midnight UTC."""
    days: dict[tuple[str, dt.date], Counter[str]] = defaultdict(Counter)
    stations: dict[tuple[str, dt.date, int, str], Counter[str]] = defaultdict(Counter)
    order = ("wnd", "asm", "pck")
    for (topic, _), events in sent.items():
        station = topic.split("/")[6]
        for e in events:
            day = dt.datetime.fromtimestamp(e.timestamp_ms / 1000, dt.UTC).date()
            at_station = stations[line_of(topic), day, order.index(station), station]
            at_station[e.result] += 1
            at_station["inspected"] += e.attempt == 1
            at_station["first_pass_good"] += e.attempt == 1 and e.result == "pass"
            days[line_of(topic), day].update(
                ["events"] + ["scrap"] * (e.result == "scrap") + ["good"] * (e.result == "pass" and station == "pck")
            )
    return {
        "daily_throughput": [(*key, n["good"], n["scrap"], n["events"]) for key, n in sorted(days.items())],
        "station_yield": [
            (line, day, station, n["inspected"], n["first_pass_good"], n["pass"], n["rework"], n["scrap"])
            for (line, day, _, station), n in sorted(stations.items())
        ],
    }
