"""The lines' figures and alerts as retained messages: the same numbers as the views, read from them once a second."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec

from mes import alerts
from mes.broker import Publisher
from mes.figures import Alert, Bottleneck, Completeness, Figure, Pace, ThroughputDay, Wip, YieldDay
from mes.store.figures import Figures

Row = Mapping[str, Any]
Value = Figure | Alert

EVERY_S: Final = 1.0  # no topic changes more often


class Teller:
    """Reads the figures, judges the alerts, and publishes what has changed since it said so.

    Each rollup judges, since the alerts' states are in the database; only one publishes (`Figures.lead`), so that no
    older value comes behind a newer one. At first everything is published again. `call` runs the database's side.
    """

    def __init__(self, figures: Figures, publisher: Publisher | None, call: Callable[..., Awaitable[Any]]) -> None:
        self._figures = figures
        self._publisher = publisher
        self._call = call
        self._published: dict[str, Value] = {}
        self._told = -math.inf

    async def tell(self, clock: float) -> None:
        """Do so, unless the last time was less than a second ago by `clock`, in seconds."""
        if clock - self._told < EVERY_S:
            return
        self._told = clock
        rows: list[Row] = await self._call(self._figures.read)
        judged = [(row, alerts.judge(row)) for row in rows if row["alert"]]
        if changed := [(row, asdict(state)) for row, state in judged if state != alerts.of(row)]:
            await self._call(self._figures.change, changed)
        if self._publisher is not None and await self._call(self._figures.lead):
            for topic, value in _topics(rows, judged):
                before = self._published.get(topic)
                if before is None or value != msgspec.structs.replace(before, timestamp_ms=value.timestamp_ms):
                    self._published[topic] = value
                    self._publisher.set(topic, msgspec.json.encode(value))

    def close(self) -> None:
        """Say nothing more, also not on a new connection to the broker: another rollup may know better by now."""
        if self._publisher is not None:
            self._publisher.forget()


def _topics(rows: Iterable[Row], judged: Iterable[tuple[Row, alerts.State]]) -> Iterable[tuple[str, Value]]:
    """Topics and payloads of lines that have a production day, of rows of the query `figures`."""
    for row in {row["line"]: row for row in rows}.values():
        if row["production_day"]:
            yield from ((figure.topic(row["site"], row["area"], row["code"]), figure) for figure in figures_of(row))
    for row, state in judged:
        if row["production_day"]:
            value = Alert(
                timestamp_ms=_ms(state.said_at),
                state=state.state,
                since_ms=_ms(state.since),
                reason=state.reason,
                raise_at=row["raise_at"],
                clear_at=row["clear_at"],
                hold_s=row["hold_s"],
            )
            yield Alert.topic(row["site"], row["area"], row["code"], row["alert"]), value


def figures_of(row: Row) -> list[Figure]:
    """The figures of a line from a row of the query `figures`."""
    counted = {"timestamp_ms": _ms(row["last_event_at"]) if row["last_event_at"] else None, "production_day": row["production_day"]}
    now = {"timestamp_ms": _ms(row["now"])}
    rolled = row["rolled_throughput_yield"]
    return [
        ThroughputDay(
            **counted, value=row["good"], target=row["target"], attainment=row["attainment"], scrap=row["scrap"],
            output_yield=row["output_yield"], rolled_throughput_yield=rolled,
        ),
        YieldDay(
            **counted, value=row["output_yield"], good=row["good"], scrap=row["yield_scrap"], rolled_throughput_yield=rolled,
            first_pass_yield=row["first_pass_yield"],
        ),
        Pace(
            **now, production_day=row["today"], value=meant(row["pace_per_h"]), projected=meant(row["projected"]),
            remaining_per_h=meant(row["remaining_per_h"]), target=row["target_of_today"],
        ),
        Wip(**now, production_day=row["production_day"], value=row["wip"]),
        Completeness(**counted, value=row["completeness"], missing=row["missing"], quarantined=row["quarantined"]),
        Bottleneck(
            **now, production_day=row["station_day"] or row["production_day"], value=row["station"], station_name=row["station_name"],
            state=row["station_state"], utilisation=whole_percents(row["utilisation"]),
        ),
    ]  # fmt: skip


def meant(value: float | None) -> float | None:
    """To four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def whole_percents(ratio: float | None) -> float | None:
    """Rounded down, as ratios are for people."""
    return None if ratio is None else math.floor(float(f"{ratio * 100:.11g}")) / 100


def _ms(at: dt.datetime) -> int:
    return round(at.timestamp() * 1000)
