"""Alerts: raised beyond one threshold, cleared beyond another, each only after it has been passed for a while.

A function of what the database holds: the figures, the rule, and the state in which any rollup left the alert. So it goes on after a
restart as if there had been none, and several rollups come to the same.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

from mes.figures import AlertState
from mes.present import count, duration, percent

Row = Mapping[str, Any]

REFRESH: Final = dt.timedelta(minutes=1)  # after which the words of a raised alert are brought up to date


@dataclass(frozen=True, slots=True)
class State:
    """An alert as it stands; `pending_since` is since when the threshold of the other state has been passed."""

    state: AlertState
    since: dt.datetime
    pending_since: dt.datetime | None
    reason: str
    said_at: dt.datetime


def of(row: Row) -> State | None:
    """The state in a row of the query `figures`; None where nobody has looked yet."""
    if row["state"] is None:
        return None
    return State(row["state"], row["since"], row["pending_since"], row["reason"], row["said_at"])


def judge(row: Row) -> State:
    """The state of the alert of a row of the query `figures`, at its `now`; that of before where nothing has changed."""
    now, was = row["now"], of(row)
    if was is None:
        was = State("cleared", now, None, _words(row), now)
    if not _is_passed(row, was.state):
        if was.pending_since:
            was = State(was.state, was.since, None, was.reason, was.said_at)
    elif now - (since := was.pending_since or now) >= dt.timedelta(seconds=row["hold_s"]):
        return State("cleared" if was.state == "raised" else "raised", now, None, _words(row), now)
    else:
        was = State(was.state, was.since, since, was.reason, was.said_at)
    if was.state == "raised" and now - was.said_at >= REFRESH and was.reason != (words := _words(row)):
        return State(was.state, was.since, was.pending_since, words, now)
    return was


def measure(row: Row) -> float | None:
    """What the thresholds of an alert are compared with; None where nothing can be said."""
    return _MEASURES[row["alert"]](row)


def _is_passed(row: Row, state: AlertState) -> bool:
    """Whether the threshold of the other state is passed. What cannot be told raises nothing, and clears."""
    value = measure(row)
    if value is None:
        return state == "raised"
    upper = row["alert"] in _UPPER
    if state == "cleared":
        return bool(value >= row["raise_at"] if upper else value < row["raise_at"])
    return bool(value < row["clear_at"] if upper else value >= row["clear_at"])


def _behind(row: Row) -> float | None:
    if not row["target_of_today"] or row["target_so_far"] is None or row["is_behind"]:
        return None
    return float((row["target_so_far"] - row["good_so_far"]) / row["target_of_today"])


def _yield(row: Row) -> float | None:
    if row["production_day"] is None or row["production_day"] != row["today"] or row["good"] + row["yield_scrap"] < row["least"]:
        return None
    value: float | None = row["output_yield"]
    return value


def _completeness(row: Row) -> float | None:
    value: float | None = row["completeness"] if row["production_day"] == row["today"] else None
    return value


_UPPER: Final = frozenset({"behind_target", "line_silent"})
_MEASURES: Final[Mapping[str, Callable[[Row], float | None]]] = {
    "behind_target": _behind,
    "yield_low": _yield,
    "line_silent": lambda row: row["silent_s"],
    "data_incomplete": _completeness,
}


def _words(row: Row) -> str:
    """The figures of an alert."""
    value = measure(row)
    if value is None:
        return _unknown(row)
    match row["alert"]:
        case "behind_target":
            due, good = round(row["target_so_far"]), row["good_so_far"]
            behind = f"{count(due - good)} behind, {percent(value)} of the day's target" if due > good else "not behind"
            return f"{count(good)} good of {count(due)} due by now: {behind}"
        case "yield_low":
            return f"output yield {percent(value)}: {count(row['good'])} good, {count(row['yield_scrap'])} scrapped"
        case "line_silent":
            heard = f"{row['heard_at'].astimezone(ZoneInfo(row['zone'])):%Y-%m-%d %H:%M:%S} plant time"
            return f"cells come, the last at {heard}" if value < row["clear_at"] else f"no cell for {duration(value)}, the last at {heard}"
    return f"{percent(value)} of the day's events are here: {count(row['missing'])} missing, {count(row['quarantined'])} in quarantine"


def _unknown(row: Row) -> str:
    """Why nothing can be said."""
    match row["alert"]:
        case "behind_target":
            return "the events of the line are late, and still coming" if row["is_behind"] else "no target is in force now"
        case "yield_low":
            return f"fewer than {count(max(row['least'], 1))} cells today: no yield yet"
        case "line_silent":
            return "nothing is scheduled now" if row["heard_at"] else "no cell was ever seen"
    return "nothing of today yet"
