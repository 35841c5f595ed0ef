"""The truth: what was generated, counted plainly from the events, per production day.

A report of the backend is right when it equals this. So nothing here is shared with the backend, and nothing is taken from the
flow's own counters. An event counts on the production day of its `timestamp_ms`; a day is half open.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulators.flow import STATES
from simulators.jit import Array
from simulators.scenario import TICKS, TICKS_MS, Scenario
from simulators.verdict import PASS, SCRAP

if TYPE_CHECKING:
    from simulators.stream import DayEnd

HOUR_MS = 3_600_000
_RESULT_NAMES = ("pass", "rework", "scrap")


def write_json(path: Path, content: Any) -> None:
    """Replace a file at once: a reader sees the old one or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


class Ledger:
    """Counts of one line's events by production day.

    starts             cells whose first visit to the first station ended
    good, scrap        passes at the last station; scraps at any
    inspected          first attempts at a station: distinct units, as a unit has one first attempt
    first_pass_good    first attempts that passed
    hourly_good        good by full hours since the day began
    machines           first and last seq and events of each machine that reported

    Of a day that has ended also
    stations           `arrived`, `left`, `wip_begin` and `wip_end`: wip_end = wip_begin + arrived - left - scrap
    states             seconds of each machine in each state, which add up to the day; of a dwell station's, position seconds
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.days: dict[dt.date, dict[str, Any]] = {}

    def add(self, events: Array) -> None:
        """Count events in order of time."""
        while len(events):
            first_ms = int(events["t"][0]) // TICKS_MS
            day = self.scenario.day_of(first_ms * TICKS_MS)
            end_ms = self.scenario.day_start(day + dt.timedelta(days=1)) // TICKS_MS
            n = int(np.searchsorted(events["t"] // TICKS_MS, end_ms))
            self._count(day, events[:n])
            events = events[n:]

    def end(self, ended: Iterable[DayEnd]) -> None:
        """Note how the line stood at the end of these days; call it after `add`."""
        for end in ended:
            truth = self.days.get(end.day)
            if truth is None:
                continue
            for i, row in enumerate(truth["stations"].values()):
                change = int(end.arrived[i] - end.left[i] - end.scrapped[i])
                row["arrived"], row["left"] = int(end.arrived[i]), int(end.left[i])
                row["wip_begin"], row["wip_end"] = int(end.wip[i]) - change, int(end.wip[i])
            truth["states"] = {
                "/".join(codes): {state: ticks / TICKS for state, ticks in zip(STATES, spent, strict=True) if ticks}
                for codes, spent in zip(self.scenario.machine_codes, end.spent.tolist(), strict=True)
            }

    def _count(self, day: dt.date, events: Array) -> None:
        begin_ms = self.scenario.day_start(day) // TICKS_MS
        end_ms = self.scenario.day_start(day + dt.timedelta(days=1)) // TICKS_MS
        stations = self.scenario.line.station
        if day not in self.days:
            self.days[day] = {
                "starts": 0, "events": 0, "good": 0, "scrap": 0,
                "hourly_good": [0] * -(-(end_ms - begin_ms) // HOUR_MS),
                "stations": {
                    s.code: {"pass": 0, "rework": 0, "scrap": 0, "inspected": 0, "first_pass_good": 0, "cycles": 0, "defects": {}}
                    for s in stations
                },
                "machines": {},
            }  # fmt: skip
        truth = self.days[day]
        station, result = events["station"], events["result"]
        first_attempt = events["attempt"] == 1
        passed = result == PASS
        missed = ~passed
        n = len(stations)
        results = np.bincount(station * 3 + result, minlength=3 * n).reshape(n, 3)
        inspected = np.bincount(station[first_attempt], minlength=n)
        first_pass = np.bincount(station[first_attempt & passed], minlength=n)
        most = max(len(s.defect) for s in stations) + 1
        defects = np.bincount(station[missed] * most + events["defect"][missed], minlength=n * most).reshape(n, most)
        hours = (events["t"][passed & (station == n - 1)] // TICKS_MS - begin_ms) // HOUR_MS
        truth["events"] += len(events)
        truth["starts"] += int(inspected[0])
        truth["good"] += len(hours)
        truth["scrap"] += int(results[:, SCRAP].sum())
        for hour, count in enumerate(np.bincount(hours).tolist()):
            truth["hourly_good"][hour] += count
        for i, s in enumerate(stations):
            row = truth["stations"][s.code]
            for code, name in enumerate(_RESULT_NAMES):
                row[name] += int(results[i, code])
            row["inspected"] += int(inspected[i])
            row["first_pass_good"] += int(first_pass[i])
            row["cycles"] += int(results[i].sum())
            for defect, count in zip(s.defect, defects[i].tolist(), strict=False):
                if count:
                    row["defects"][defect.code] = row["defects"].get(defect.code, 0) + count
        machine, first, count = np.unique(events["machine"], return_index=True, return_counts=True)
        codes = self.scenario.machine_codes
        for m, i, c in zip(machine.tolist(), first.tolist(), count.tolist(), strict=True):
            name = "/".join(codes[m])
            seq = int(events["seq"][i])
            row = truth["machines"].setdefault(name, {"first_seq": seq, "last_seq": seq, "events": 0})
            row["last_seq"] = seq + c - 1
            row["events"] += c

    def as_dict(self, *, seed: int, boot: int | None, until_ms: int, **more: Any) -> dict[str, Any]:
        """The ledger as JSON types. Days are listed once they have an event; the last may be incomplete: `until_ms` says how far.

        more   further facts of the whole run, such as its disturbances and faults
        """
        line = self.scenario.line
        return {
            "line": line.path, "seed": seed, "boot": boot, "until_ms": until_ms, **more,
            "days": {day.isoformat(): truth for day, truth in sorted(self.days.items())},
        }  # fmt: skip
