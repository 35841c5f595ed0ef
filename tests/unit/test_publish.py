"""What rollup says and when: only what has changed, no topic more than once a second, nothing unless it is the one that speaks."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mes.publish import Teller, figures_of, meant, whole_percents
from tests.unit.test_alerts import row

ROOT = "umh/v1/cbak/nanjing/cells/32140-1"
KPIS = ["throughput_day", "yield_day", "pace", "wip", "completeness", "bottleneck"]


class Database:
    """Rows that a test changes; writes down what is written."""

    def __init__(self) -> None:
        self.leads = True
        self.changed: list[Any] = []
        self.reads = 0
        self.row = row("yield_low", 0.97) | {
            "line_id": 1, "line": "nanjing/cells/32140-1", "site": "nanjing", "area": "cells", "code": "32140-1",
            "target": 50_000, "attainment": 0.2, "scrap": 310, "last_event_at": dt.datetime(2026, 11, 25, 3, tzinfo=dt.UTC),
            "rolled_throughput_yield": 0.95, "first_pass_yield": 0.999, "pace_per_h": 2083.3371, "projected": 50_123.4,
            "remaining_per_h": 2081.44, "wip": 17, "station_day": dt.date(2026, 11, 24), "station": "hta",
            "station_name": "Ageing", "station_state": "running", "utilisation": 0.99871,
        }  # fmt: skip

    def read(self) -> list[dict[str, Any]]:
        self.reads += 1
        return [self.row]

    def change(self, changed: Any) -> None:
        self.changed += changed
        for _, state in changed:
            self.row.update(state)

    def lead(self) -> bool:
        return self.leads


class Wire(dict[str, list[Any]]):
    """What was published, by the last level of its topic."""

    forgotten = False

    def set(self, topic: str, payload: bytes) -> None:
        assert topic.startswith(f"{ROOT}/_")
        self.setdefault(topic.rpartition("/")[2], []).append(msgspec.json.decode(payload))

    def forget(self) -> None:
        self.forgotten = True


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def teller(database: Database, wire: Wire) -> Teller:
    async def call(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    return Teller(database, wire, call)  # type: ignore[arg-type]


@pytest.fixture
def tell(teller: Teller) -> Callable[[float], None]:
    """Have it tell, by a clock that shows so many seconds."""
    return lambda clock: asyncio.run(teller.tell(clock))


def test_at_first_everything_then_what_has_changed(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    tell(0)
    assert {name: len(said) for name, said in wire.items()} == dict.fromkeys([*KPIS, "yield_low"], 1)
    database.row |= {"good": 10_001, "now": database.row["now"] + dt.timedelta(seconds=1), "pace_per_h": 2083.4, "utilisation": 0.9919}
    tell(1)
    assert [name for name, said in wire.items() if len(said) > 1] == ["throughput_day", "yield_day"]


def test_time_alone_changes_nothing(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    for second in range(100):
        database.row["now"] += dt.timedelta(seconds=1)
        database.row["last_event_at"] += dt.timedelta(seconds=1)
        database.row["silent_s"] += 1
        tell(second)
    assert {len(said) for said in wire.values()} == {1}


def test_no_topic_more_than_once_a_second(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    for tenth in range(101):
        database.row["good"] += 1
        tell(tenth / 10)
    assert len(wire["throughput_day"]) == 11
    assert wire["throughput_day"][-1]["value"] == 10_101, "the last one is the latest"
    assert database.reads == 11


def test_who_does_not_lead_judges_and_is_silent(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    database.leads = False
    tell(0)
    assert wire == {}
    assert [state["state"] for _, state in database.changed] == ["cleared"]
    database.leads = True
    tell(1)
    assert sorted(wire) == sorted([*KPIS, "yield_low"]), "it takes over with everything"


def test_a_state_is_written_once(tell: Callable[[float], None], database: Database) -> None:
    for second in range(10):
        tell(second)
    assert len(database.changed) == 1


def test_what_was_said_is_not_said_again_by_a_rollup_that_has_lost_its_database(teller: Teller, wire: Wire) -> None:
    teller.close()
    assert wire.forgotten


def test_a_line_without_a_production_day_says_nothing(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    database.row["production_day"] = None
    tell(0)
    assert wire == {}


def test_an_alert_in_its_message(tell: Callable[[float], None], database: Database, wire: Wire) -> None:
    database.row |= {"output_yield": 0.9, "hold_s": 0}
    tell(0)
    now = 1_795_579_200_000
    assert wire["yield_low"] == [{
        "timestamp_ms": now, "state": "raised", "since_ms": now, "reason": "output yield 90.00 %: 10,000 good, 300 scrapped",
        "raise_at": 0.94, "clear_at": 0.95, "hold_s": 0.0,
    }]  # fmt: skip


def test_figures_that_change_with_time_have_the_digits_that_mean_something(database: Database) -> None:
    _, _, pace, _, _, bottleneck = figures_of(database.row)
    assert msgspec.to_builtins(pace) == {
        "timestamp_ms": 1_795_579_200_000, "production_day": "2026-11-25", "value": 2083.0, "projected": 50_120.0,
        "remaining_per_h": 2081.0, "target": 50_000,
    }  # fmt: skip
    assert msgspec.to_builtins(bottleneck)["production_day"] == "2026-11-24", "of a line that is behind: where it has got to"
    assert msgspec.to_builtins(bottleneck)["utilisation"] == 0.99, "rounded down: 100 % is all that its machines can do"
    assert meant(None) is None
    assert meant(0.0) == 0.0
    assert meant(99_995.0) == 100_000.0
    assert [whole_percents(ratio) for ratio in (None, 0.29, 0.99999, 1.0, 1.195)] == [None, 0.29, 0.99, 1.0, 1.19]
