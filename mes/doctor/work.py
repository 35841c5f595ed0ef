"""What the backend is at: who holds the lines, what waits, what is missing."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mes.calendar import Calendar, clip, seconds
from mes.doctor.finding import Check, Finding, Level, many, some, span
from mes.errors import ConfigError
from mes.seeds import load_plant
from mes.store.calendars import TURN, line_calendars
from mes.store.events import LEASE
from mes.store.look import Look
from mes.store.seed import digest_of

_SILENT_S: Final = 600.0
_LOST_S: Final = 7200.0
_AGAIN_S: Final = 8.0  # how long it is watched whether marks go;
_FEWER_S: Final = 3.0  # less where they do
_OPEN: Final = dt.timedelta(days=3)


@dataclass(slots=True)
class Work:
    """A look at a database whose schema is this program's, and what else there is to know."""

    look: Look
    seeds: Path


def plant(work: Work) -> Iterator[Finding]:
    lines, without_target, digest, seeded_at = work.look.row("doctor_plant")
    if not lines:
        yield Finding("plant.loaded", Level.PROBLEM, "the database holds no active line", "load a plant: `mes seed`")
        return
    yield Finding("plant.loaded", Level.OK, f"{many(lines, 'line')}, loaded {seeded_at:%Y-%m-%d %H:%M}Z")
    if without_target:
        found = f"{some(without_target)}: no target is in force, so there is no attainment"
        yield Finding("plant.targets", Level.WARNING, found, "add it to targets.toml of the seeds and run `mes seed`")
    try:
        here = digest_of(load_plant(work.seeds))
    except ConfigError:
        return  # they lie elsewhere: nothing to compare with
    if here != digest:
        found = f"the seeds in {work.seeds} are not what was loaded last"
        yield Finding("plant.seeds", Level.WARNING, found, "run `mes seed`, or name the right folder with --seeds")


def leases(work: Work) -> Iterator[Finding]:
    """Each line has one worker; whatever lacks one piles up at the broker."""
    held = 0
    for path, announced, holder in work.look.rows("doctor_leases", LEASE):
        if holder is None:
            found = f"nobody holds {path}: its events wait at the broker"
            yield Finding("lines.lease", Level.PROBLEM, found, "start `mes ingest`, or see why it does not run (its log, /readyz)", path)
        elif announced is None:
            found = f"{path} is held by a worker whose session the broker has not confirmed yet"
            yield Finding("lines.lease", Level.WARNING, found, "see the log of `mes ingest`", path)
        else:
            held += 1
    if held:
        yield Finding("lines.lease", Level.OK, f"{many(held, 'line')} held by a worker")


def silent(work: Work) -> Iterator[Finding]:
    calendars = line_calendars(work.look.connection)
    heard: list[str] = []
    for line_id, path, ago_s in work.look.rows("doctor_last_received"):
        if ago_s is None:
            yield Finding("lines.silent", Level.NOTE, f"nothing has ever come from {path}", "let its machines publish (README)", path)
        elif ago_s < _SILENT_S:
            heard.append(path)
        elif (lost_s := _scheduled_s(calendars[line_id].calendar, ago_s)) < _SILENT_S:
            yield Finding(
                "lines.silent", Level.OK, f"{path}: nothing for {span(ago_s)}, of which {span(lost_s)} were scheduled", about=path
            )
        else:
            level = Level.PROBLEM if lost_s >= _LOST_S else Level.WARNING
            cure = "see whether the line stands, its gateway runs and its machines reach the broker"
            yield Finding("lines.silent", level, f"{path}: nothing has come for {span(ago_s)}, though the line was to work", cure, path)
    if heard:
        yield Finding("lines.silent", Level.OK, f"{some(heard)}: heard of within {span(_SILENT_S)}")


def _scheduled_s(calendar: Calendar, ago_s: float) -> float:
    """How many of the last seconds, of two days at most, the line was to work."""
    now = dt.datetime.now(dt.UTC)
    begin = now - min(dt.timedelta(seconds=ago_s), dt.timedelta(days=2))
    first = calendar.day_of(begin)
    days = (first + dt.timedelta(days=n) for n in range((calendar.day_of(now) - first).days + 1))
    return sum(seconds(clip(calendar.scheduled(day), begin, now)) for day in days)


def marks(work: Work) -> Iterator[Finding]:
    """Two looks, a little apart: marks that go are work, marks that stand while nobody is at them are trouble."""
    waiting, _, newest = work.look.row("marks_waiting")
    rollups, busy = work.look.row("doctor_rollups", TURN)
    if not rollups:
        found = "no `mes rollup` is connected: figures stand still"
        yield Finding("rollup.runs", Level.PROBLEM, found, "start `mes rollup`, or see why it does not run (its log, /readyz)")
    else:
        yield Finding("rollup.runs", Level.OK, f"{rollups} connected")
    if not waiting:
        yield Finding("rollup.marks", Level.OK, "no bucket waits to be summed")
        return
    began = time.monotonic()
    left, oldest = work.look.row("doctor_marks_left", newest)
    while left and rollups and time.monotonic() < began + (_AGAIN_S if left == waiting else _FEWER_S):
        time.sleep(0.25)
        left, oldest = work.look.row("doctor_marks_left", newest)
        busy += work.look.row("doctor_rollups", TURN)[1]
    spent = time.monotonic() - began
    if not left:
        yield Finding("rollup.marks", Level.OK, f"{many(waiting, 'bucket')} waited, summed within {span(spent)}")
        return
    found = f"{many(left, 'bucket')} to be summed, the oldest of {oldest:%Y-%m-%d %H:%M}Z"
    if left < waiting:
        rate = (waiting - left) / spent
        yield Finding("rollup.marks", Level.NOTE, f"{found}: about {span(left / rate)} of work", "wait, or start another `mes rollup`")
    elif busy:
        yield Finding(
            "rollup.marks", Level.NOTE, f"{found}, and a rollup is at a day", "wait; run doctor again to see that they become fewer"
        )
    else:
        cure = "see the log of `mes rollup`, and what keeps it (a seeding that does not end)" if rollups else "start `mes rollup`"
        yield Finding("rollup.marks", Level.WARNING if rollups else Level.PROBLEM, f"{found}, and nobody is at them", cure)


def quarantine(work: Work) -> Iterator[Finding]:
    rows = work.look.rows("doctor_quarantine")
    for reason, n, since, newest in rows:
        found = f"{many(n, 'message')} in the quarantine ({reason}), since {since:%Y-%m-%d %H:%M}Z"
        cure = f"`mes quarantine list --reason {reason}`, `mes quarantine show {newest}`; correct the seeds and replay, or discard"
        yield Finding("quarantine", Level.WARNING, found, cure, reason)
    if not rows:
        yield Finding("quarantine", Level.OK, "nothing waits in the quarantine")


def gaps(work: Work) -> Iterator[Finding]:
    rows = work.look.rows("doctor_gaps")
    for line, n, machines, missing in rows:
        found = f"{line}: {many(missing, 'message')} of {many(machines, 'machine')} never came, in {many(n, 'gap')}"
        cure = f"`mes ledger gaps --line {line}`; have the machines send them again, or close what nobody will send (`mes ledger close`)"
        yield Finding("gaps", Level.WARNING, found, cure, line)
    if not rows:
        yield Finding("gaps", Level.OK, "nothing is missing of what machines have counted")


def open_days(work: Work) -> Iterator[Finding]:
    for line, n, oldest in work.look.rows("doctor_open_days", _OPEN):
        found = f"{line}: {many(n, 'day')} not closed that ended more than {_OPEN.days} days ago, the oldest is {oldest}"
        cure = "see what still changes them: marks that stand, machines that send what is old"
        yield Finding("days.open", Level.WARNING, found, cure, line)


CHECKS: Final[Mapping[str, Check[Work]]] = {
    "plant.loaded": plant,
    "lines.lease": leases,
    "lines.silent": silent,
    "quarantine": quarantine,
    "gaps": gaps,
    "days.open": open_days,
    "rollup.marks": marks,
}
