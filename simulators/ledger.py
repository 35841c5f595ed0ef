"""The truth: what was generated, counted plainly from the events, per production day.

A report of the backend is right when it equals this. So nothing here is shared with the backend, and nothing is taken from the
flow's own counters. An event counts on the production day of its `timestamp_ms`; a day is half open.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from simulators.flow import NO_DEFECT, PASS, SCRAP
from simulators.jit import Array
from simulators.scenario import TICKS_MS, Scenario

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

    def _count(self, day: dt.date, events: Array) -> None:
        begin_ms = self.scenario.day_start(day) // TICKS_MS
        end_ms = self.scenario.day_start(day + dt.timedelta(days=1)) // TICKS_MS
        stations = self.scenario.line.station
        if day not in self.days:
            self.days[day] = {
                "starts": 0, "events": 0, "good": 0, "scrap": 0,
                "hourly_good": [0] * -(-(end_ms - begin_ms) // HOUR_MS),
                "stations": {
                    s.code: {"pass": 0, "rework": 0, "scrap": 0, "inspected": 0, "first_pass_good": 0, "cycles": 0, "defects": {}} for s in stations
                },
                "machines": {},
            }  # fmt: skip
        truth = self.days[day]
        last = len(stations) - 1
        first_attempt = events["attempt"] == 1
        passed = events["result"] == PASS
        truth["events"] += len(events)
        truth["starts"] += int(np.count_nonzero(first_attempt & (events["station"] == 0)))
        good = events[passed & (events["station"] == last)]
        truth["good"] += len(good)
        truth["scrap"] += int(np.count_nonzero(events["result"] == SCRAP))
        for hour, count in zip(*np.unique((good["t"] // TICKS_MS - begin_ms) // HOUR_MS, return_counts=True), strict=True):
            truth["hourly_good"][int(hour)] += int(count)
        for n, s in enumerate(stations):
            here = events["station"] == n
            row = truth["stations"][s.code]
            for code, name in enumerate(_RESULT_NAMES):
                row[name] += int(np.count_nonzero(here & (events["result"] == code)))
            row["inspected"] += int(np.count_nonzero(here & first_attempt))
            row["first_pass_good"] += int(np.count_nonzero(here & first_attempt & passed))
            row["cycles"] += int(np.count_nonzero(here))
            for defect, count in zip(*np.unique(events["defect"][here & (events["defect"] != NO_DEFECT)], return_counts=True), strict=True):
                code_of = s.defect[int(defect)].code
                row["defects"][code_of] = row["defects"].get(code_of, 0) + int(count)
        machine, first, count = np.unique(events["machine"], return_index=True, return_counts=True)
        codes = self.scenario.machine_codes
        for m, i, c in zip(machine.tolist(), first.tolist(), count.tolist(), strict=True):
            name = "/".join(codes[m])
            seq = int(events["seq"][i])
            row = truth["machines"].setdefault(name, {"first_seq": seq, "last_seq": seq, "events": 0})
            row["last_seq"] = seq + c - 1
            row["events"] += c

    def as_dict(self, *, seed: int, boot: int, until_ms: int) -> dict[str, Any]:
        """The ledger as JSON types. Days are listed once they have an event; the last may be incomplete: `until_ms` says how far."""
        line = self.scenario.line
        return {
            "line": line.path, "seed": seed, "boot": boot, "until_ms": until_ms,
            "days": {day.isoformat(): truth for day, truth in sorted(self.days.items())},
        }  # fmt: skip
