"""Clocks, each against the one that it is compared with. What cannot be seen is said."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final

from mes.doctor.finding import Check, Finding, Level, many, some, span
from mes.doctor.work import Work
from mes.probe import Heard
from mes.store.look import Look

_OFF_S: Final = (2.0, 60.0)  # servers: from here on a warning, a problem
_AHEAD_S: Final = (5.0, 300.0)  # machines, by the median of their events; beyond the latter an event counts as of a clock that is ahead
_BEHIND_S: Final = 300.0
_SET: Final = "have it take its time from the plant's server (chrony, NTP)"


def database(look: Look) -> Iterator[Finding]:
    """Asked several times; the quickest answer counts, give or take half of what it took."""
    answers = []
    for _ in range(5):
        before = dt.datetime.now(dt.UTC)
        (there,) = look.row("doctor_clock")
        after = dt.datetime.now(dt.UTC)
        answers.append((after - before, there - (before + (after - before) / 2)))
    took, off = min(answers)
    off_s, give_s = off.total_seconds(), took.total_seconds() / 2
    beyond_s = abs(off_s) - give_s
    level = Level.PROBLEM if beyond_s > _OFF_S[1] else Level.WARNING if beyond_s > _OFF_S[0] else Level.OK
    found = f"the database's clock is {_off(off_s)} against this machine's (± {give_s * 1000:.0f} ms)"
    cure = "" if level is Level.OK else f"one of the two is wrong: {_SET}"
    yield Finding("clock.database", level, found, cure)


def machines(work: Work) -> Iterator[Finding]:
    """By their latest events: what was received before it happened, or long after."""
    rows = work.look.rows("doctor_machine_clocks")
    if not rows:
        found = "the machines' clocks cannot be seen: nothing came within 15 min that was made in the last two hours"
        yield Finding("clock.machines", Level.NOTE, found, "look again while the lines work")
    for line, group in groupby(rows, key=lambda row: row[0]):
        lags = [(lag_s, machine) for _, machine, _, lag_s in group]
        ahead = sorted((lag_s, machine) for lag_s, machine in lags if lag_s < -_AHEAD_S[0])
        behind = sorted(((lag_s, machine) for lag_s, machine in lags if lag_s > _BEHIND_S), reverse=True)
        if ahead:
            level = Level.PROBLEM if ahead[0][0] < -_AHEAD_S[1] else Level.WARNING
            named = some(f"{machine} {span(-lag_s)}" for lag_s, machine in ahead)
            yield Finding("clock.machines", level, f"{line}: clocks ahead on {many(len(ahead), 'machine')}: {named}", _SET, line)
        if behind:
            named = some(f"{machine} {span(lag_s)}" for lag_s, machine in behind)
            found = f"{line}: old events from {many(len(behind), 'machine')}: {named}"
            yield Finding(
                "clock.machines", Level.WARNING, found, f"they send what they had kept, or their clocks are behind: then {_SET}", line
            )
        if not ahead and not behind:
            median = sorted(lags)[len(lags) // 2][0]
            yield Finding(
                "clock.machines",
                Level.OK,
                f"{line}: {many(len(lags), 'machine')}, received {max(median, 0.0):.1f} s after the fact",
                about=line,
            )


def far_ahead(work: Work) -> Iterator[Finding]:
    """Of the last two days, also what lies beyond what is looked at above."""
    for line, group in groupby(sorted(work.look.rows("doctor_ahead")), key=lambda row: row[0]):
        worst = sorted(((n, machine) for _, machine, n in group), reverse=True)
        found = f"{line}: since yesterday {sum(n for n, _ in worst):,} events came more than 5 min before their time: "
        cure = f"{_SET}; the events count on the day that they say"
        yield Finding("clock.machines", Level.WARNING, found + some(f"{machine} {n:,}" for n, machine in worst), cure, line)


def all_machines(work: Work) -> Iterator[Finding]:
    """Both."""
    yield from machines(work)
    yield from far_ahead(work)


def workers(heard: Heard) -> Iterator[Finding]:
    """Who holds a line says so with its time: what came while we listened was said just then."""
    for line in sorted(heard.is_live):
        holder, at = heard.holders[line]
        off_s = holder.timestamp_ms / 1000 - at
        level = Level.PROBLEM if abs(off_s) > _OFF_S[1] else Level.WARNING if abs(off_s) > _OFF_S[0] else Level.OK
        found = f"the clock of worker {holder.worker} ({line}) is {_off(off_s)} against this machine's"
        yield Finding("clock.workers", level, found, "" if level is Level.OK else f"one of the two is wrong: {_SET}", line)
    found = "the broker's own clock cannot be seen, MQTT does not show it; nothing is counted by it, but certificates are"
    yield Finding("clock.broker", Level.NOTE, found, "look at it on its host: `timedatectl`")


def _off(seconds: float) -> str:
    if abs(seconds) < 0.05:
        return "right"
    return f"{span(abs(seconds))} {'ahead' if seconds > 0 else 'behind'}"


CHECKS: Final[Mapping[str, Check[Work]]] = {"clock.machines": all_machines}
