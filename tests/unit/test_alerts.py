"""Alerts: two thresholds, a time for which each must be passed, the figures in words."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mes import alerts
from mes.alerts import State

START = dt.datetime(2026, 11, 25, 4, tzinfo=dt.UTC)
DAY = dt.date(2026, 11, 25)
RULES = {
    "behind_target": {"raise_at": 0.04, "clear_at": 0.02, "least": 0},
    "yield_low": {"raise_at": 0.94, "clear_at": 0.95, "least": 500},
    "line_silent": {"raise_at": 300.0, "clear_at": 60.0, "least": 0},
    "data_incomplete": {"raise_at": 0.999, "clear_at": 0.9995, "least": 0},
}
BAD = {"behind_target": 0.10, "yield_low": 0.90, "line_silent": 720.0, "data_incomplete": 0.99}
GOOD = {"behind_target": 0.01, "yield_low": 0.97, "line_silent": 2.0, "data_incomplete": 1.0}
BETWEEN = {"behind_target": 0.03, "yield_low": 0.945, "line_silent": 100.0, "data_incomplete": 0.9992}


def row(alert: str, value: float | None, at_s: float = 0, was: State | None = None, hold_s: float = 10, **other: Any) -> dict[str, Any]:
    """A row of the query `figures` in which an alert measures so much."""
    figures: dict[str, Any] = {
        "alert": alert, "now": START + dt.timedelta(seconds=at_s), "hold_s": hold_s, "zone": "Asia/Shanghai",
        "state": None, "since": None, "pending_since": None, "reason": None, "said_at": None,
        "production_day": DAY, "today": DAY, "target_of_today": 50_000, "target_so_far": 10_000.0, "good_so_far": 10_000,
        "good": 10_000, "yield_scrap": 300, "output_yield": 0.97, "completeness": 1.0, "missing": 12, "quarantined": 3,
        "silent_s": 1.0, "heard_at": START, "is_behind": False,
    }  # fmt: skip
    match alert:
        case "behind_target":
            changed: dict[str, Any] = {"good_so_far": 10_000 - round(value * 50_000)} if value is not None else {"target_of_today": None}
        case "yield_low":
            changed = {"output_yield": value} if value is not None else {"good": 100, "yield_scrap": 5}
        case "line_silent":
            changed = {"silent_s": value}
        case _:
            changed = {"completeness": value}
    return figures | RULES[alert] | changed | (asdict(was) if was else {}) | other


def run(alert: str, values: list[float | None], hold_s: float = 10, step_s: float = 4) -> list[State]:
    """The states of an alert that is looked at every few seconds."""
    states: list[State] = []
    was = None
    for n, value in enumerate(values):
        was = alerts.judge(row(alert, value, n * step_s, was, hold_s))
        states.append(was)
    return states


def words(states: list[State]) -> str:
    return "".join("R" if s.state == "raised" else "c" for s in states)


@pytest.mark.parametrize("alert", RULES)
def test_raised_and_cleared_after_the_hold_time(alert: str) -> None:
    """Looked at every 4 s with a hold of 10 s: passed at 4 s, raised at 16."""
    states = run(alert, [GOOD[alert]] + [BAD[alert]] * 6 + [GOOD[alert]] * 5)
    assert words(states) == "ccccRRRRRRcc"
    assert states[4].since == START + dt.timedelta(seconds=16)
    assert states[9].since == states[4].since
    assert states[10].since == START + dt.timedelta(seconds=40)


@pytest.mark.parametrize("alert", RULES)
def test_between_the_thresholds_nothing_changes(alert: str) -> None:
    good, bad, between = GOOD[alert], BAD[alert], BETWEEN[alert]
    assert words(run(alert, [good] + [between] * 20)) == "c" * 21
    assert words(run(alert, [bad] * 5 + [between] * 20)).endswith("R" * 20)


@pytest.mark.parametrize("alert", RULES)
def test_values_that_flap_within_the_hold_time_change_nothing(alert: str) -> None:
    good, bad = GOOD[alert], BAD[alert]
    assert words(run(alert, [good, bad, bad] * 10)) == "c" * 30
    assert words(run(alert, [bad] * 4 + [good, good, bad] * 10)) == "ccc" + "R" * 31


@pytest.mark.parametrize("alert", RULES)
def test_what_cannot_be_told_raises_nothing_and_clears(alert: str) -> None:
    assert words(run(alert, [None] * 10)) == "c" * 10
    assert words(run(alert, [BAD[alert]] * 5 + [None] * 5)) == "cccRRRRRcc"


def test_without_a_hold_time_it_is_raised_at_once() -> None:
    assert words(run("line_silent", [720.0, 2.0], hold_s=0)) == "Rc"


def test_the_threshold_itself() -> None:
    """From 300 s on a line is silent, and below 60 it is not; a yield of 94 % is not below it, and 95 % is enough."""
    assert words(run("line_silent", [299.9, 300.0, 60.0, 59.9], hold_s=0)) == "cRRc"
    assert words(run("yield_low", [0.94, 0.9399, 0.9499, 0.95], hold_s=0)) == "cRRc"


@given(st.lists(st.sampled_from(["good", "between", "bad", "none"]), max_size=60), st.integers(0, 5), st.sampled_from(sorted(RULES)))
def test_it_changes_where_a_plain_walk_over_all_that_was_seen_says_so(seen: list[str], hold: int, alert: str) -> None:
    """A change needs `hold` steps in a row, the present one included, at all of which the other state was called for."""
    values = [{"good": GOOD, "between": BETWEEN, "bad": BAD, "none": dict.fromkeys(RULES)}[what][alert] for what in seen]
    raised, begun, expected = False, 0, ""
    for n in range(len(seen)):
        calls = ("good", "none") if raised else ("bad",)
        back = 0
        while n - back >= begun and seen[n - back] in calls:
            back += 1
        if back > hold:
            raised, begun = not raised, n + 1
        expected += "R" if raised else "c"
    assert words(run(alert, values, hold_s=hold * 4)) == expected


def test_nothing_changes_what_has_not_changed() -> None:
    """So a rollup that looks every second writes nothing."""
    was = alerts.judge(row("yield_low", 0.97))
    for at in range(1, 300):
        now = row("yield_low", 0.97 + at / 1e5, at, was)
        assert alerts.judge(now) == was == alerts.of(now)


def test_the_words_of_a_raised_alert_follow_the_figures_once_a_minute() -> None:
    was = State("raised", START, None, "12 behind", START)
    assert alerts.judge(row("behind_target", 0.1, 59, was)) == was
    later = alerts.judge(row("behind_target", 0.1, 60, was))
    assert (later.state, later.since) == ("raised", START)
    assert later.said_at == START + dt.timedelta(minutes=1)
    assert later.reason == "5,000 good of 10,000 due by now: 5,000 behind, 10.00 % of the day's target"
    assert alerts.judge(row("behind_target", 0.1, 200, later)) == later, "the same words are not said again"


@pytest.mark.parametrize(
    ("alert", "value", "other", "reason"),
    [
        ("behind_target", 0.01, {}, "9,500 good of 10,000 due by now: 500 behind, 1.00 % of the day's target"),
        ("behind_target", -0.01, {}, "10,500 good of 10,000 due by now: not behind"),
        ("behind_target", None, {}, "no target is in force now"),
        ("behind_target", 0.5, {"is_behind": True}, "the events of the line are late, and still coming"),
        ("yield_low", 0.93999, {}, "output yield 93.99 %: 10,000 good, 300 scrapped"),
        ("yield_low", None, {}, "fewer than 500 cells today: no yield yet"),
        ("line_silent", 4000.0, {}, "no cell for 1 h 06 min, the last at 2026-11-25 12:00:00 plant time"),
        ("line_silent", 3.0, {}, "cells come, the last at 2026-11-25 12:00:00 plant time"),
        ("line_silent", None, {}, "nothing is scheduled now"),
        ("line_silent", None, {"heard_at": None}, "no cell was ever seen"),
        ("data_incomplete", 0.99999, {}, "99.99 % of the day's events are here: 12 missing, 3 in quarantine"),
        ("data_incomplete", None, {}, "nothing of today yet"),
        ("data_incomplete", 1.0, {"today": None}, "nothing of today yet"),
    ],
)  # fmt: skip
def test_the_reason_holds_the_figures(alert: str, value: float | None, other: dict[str, Any], reason: str) -> None:
    assert alerts.judge(row(alert, value, **other)).reason == reason
