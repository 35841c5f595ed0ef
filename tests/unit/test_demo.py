"""`demo --once` says no when report and truth differ, and gives up when nothing moves."""

from __future__ import annotations

import copy
import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mes.demo import once

LINE = "nanjing/cells/32140-1"
TRUTH: dict[str, Any] = {
    "starts": 11,
    "events": 12,
    "good": 5,
    "scrap": 1,
    "hourly_good": [2, 3],
    "stations": {"wnd": {"pass": 10, "rework": 1, "scrap": 1, "inspected": 11, "first_pass_good": 9, "cycles": 12, "defects": {"W01": 2}}},
    "machines": {"wnd/01": {"first_seq": 1, "last_seq": 12, "events": 12}},
}
REPORTED = {
    "started": 11,
    "events": 12,
    "good": 5,
    "scrap": 1,
    "hour 0 good": 2,
    "hour 1 good": 3,
    "station wnd good": 10,
    "station wnd rework": 1,
    "station wnd scrap": 1,
    "station wnd inspected": 11,
    "station wnd first_pass_good": 9,
    "defect wnd W01": 2,
    "machine wnd/01 events": 12,
}


class Figures:
    """Stands for the database: what it reports, and how many events and marks it holds at each question."""

    def __init__(self, reported: dict[str, int], received: list[int], marks: list[int]) -> None:
        self.reported, self._received, self._marks = reported, received, marks

    def counts(self, line: str, day: dt.date) -> dict[str, int]:
        assert (line, day) == (LINE, dt.date(2026, 3, 2))
        return self.reported

    def received_of_all(self) -> int:
        return self._received.pop(0) if len(self._received) > 1 else self._received[0]

    def marks(self) -> int:
        return self._marks.pop(0) if len(self._marks) > 1 else self._marks[0]


@pytest.fixture
def simulation(tmp_path: Path) -> Any:
    ledger = tmp_path / "ledger.json"
    ledger.write_text(json.dumps({"line": LINE, "days": {"2026-03-02": TRUTH}}))
    log = tmp_path / "log"
    log.write_text('{"fraction": 0.25}\n{"fraction": 0.5}\nnot a figure\n')
    return once.Simulation(SimpleNamespace(path=LINE), SimpleNamespace(finished=True, log=log), ledger)  # type: ignore[arg-type]


def wait(figures: Figures, simulation: Any) -> list[str]:
    said: list[str] = []
    stack = SimpleNamespace(tend=lambda: None, say=said.append)
    once._until_summed(Console(), stack, figures, [simulation])  # type: ignore[arg-type]
    return said


def test_equal_counts_are_no_difference(simulation: Any) -> None:
    assert once._differences([simulation], Figures(REPORTED, [0], [0])) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REPORTED)
def test_every_count_that_differs_is_listed(simulation: Any, name: str) -> None:
    reported = copy.copy(REPORTED)
    reported[name] += 1
    found = once._differences([simulation], Figures(reported, [0], [0]))  # type: ignore[arg-type]
    assert found == [f"{LINE} 2026-03-02 {name}: reported {REPORTED[name] + 1}, simulated {REPORTED[name]}"]


def test_what_only_one_side_knows_is_a_difference(simulation: Any) -> None:
    assert len(once._differences([simulation], Figures({}, [0], [0]))) == len(REPORTED)  # type: ignore[arg-type]
    extra = {**REPORTED, "station xyz good": 1}
    assert once._differences([simulation], Figures(extra, [0], [0])) == [f"{LINE} 2026-03-02 station xyz good: reported 1, simulated 0"]  # type: ignore[arg-type]


def test_progress_is_the_last_figure_that_the_simulator_printed(simulation: Any) -> None:
    assert simulation.fraction == 1.0
    simulation.service.finished = False
    assert simulation.fraction == 0.5
    simulation.service.log.write_text("Traceback\n")
    assert simulation.fraction == 0.0


def test_it_waits_for_the_events_and_then_for_the_marks(simulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_TICK_S", 0.0)
    figures = Figures(REPORTED, [0, 11, 12], [0, 0, 3, 1, 0])
    wait(figures, simulation)
    assert (figures._received, figures._marks) == ([12], [0])


def test_standing_still_ends_it(simulation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_STALL_S", 0.0)
    monkeypatch.setattr(once, "_TICK_S", 0.001)
    with pytest.raises(once._Stalled, match=r"nothing has moved.*11 of 12 events stored, 0 marks left"):
        wait(Figures(REPORTED, [11], [0]), simulation)
    with pytest.raises(once._Stalled, match=r"12 of 12 events stored, 2 marks left"):
        wait(Figures(REPORTED, [12], [2]), simulation)
