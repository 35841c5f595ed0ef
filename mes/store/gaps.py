"""Gaps in what machines have sent: seen, and closed by hand where no machine will ever fill them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from psycopg.types.multirange import Int8Multirange
from psycopg.types.range import Int8Range

from mes.errors import ConfigError
from mes.ledger import Promise
from mes.store.connection import Connection, queries, translated


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequence numbers `first` to `last` of a boot that have neither come nor been closed."""

    machine: str
    boot: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Closing:
    """A gap closed by hand."""

    machine: str
    boot: int
    seqs: str
    why: str
    by: str
    at: dt.datetime


def gaps(connection: Connection, line: str | None = None) -> list[Gap]:
    """All gaps up to the highest number that each machine has sent in each boot."""
    with translated(connection):
        return [
            Gap(machine, boot, r.lower, r.upper - 1) for machine, boot, r in connection.execute(queries()["machine_gaps"], {"line": line})
        ]


def closings(connection: Connection, line: str | None = None) -> list[Closing]:
    """Gaps closed so far, newest first."""
    with translated(connection):
        return [Closing(*row) for row in connection.execute(queries()["closings"], {"line": line})]


def close(connection: Connection, machine: str, boot: int, first: int, last: int, why: str) -> int:
    """Close what is missing of [first, last]; returns how many numbers that were.

    ConfigError when there is no such machine or boot, when nothing is missing there, or when `last` lies beyond what
    the machine has sent: what may still come is no gap.
    """
    with translated(connection), connection.transaction():
        found = connection.execute(queries()["machine_by_path"], [machine]).fetchone()
        if found is None:
            raise ConfigError(f"machine {machine!r} is unknown: give its path, such as nanjing/cells/32140-1/wnd/03")
        row = connection.execute(queries()["received_by_boot"], [found[0], boot]).fetchone()
        if row is None or not row[0]:
            raise ConfigError(f"machine {machine} has sent nothing in boot {boot}: `mes ledger gaps` lists what is missing")
        received, closed = row
        highest = received[-1].upper - 1
        if last > highest:
            raise ConfigError(f"machine {machine}, boot {boot}, has sent up to {highest}: {last} may still come, close at most that far")
        missing = _missing(first, last, [(r.lower, r.upper) for r in (*received, *closed)])
        if not missing:
            raise ConfigError(f"machine {machine}, boot {boot}: nothing is missing from {first} to {last}")
        values = {"machine": found[0], "boot": boot, "seqs": Int8Multirange([Int8Range(a, b) for a, b in missing]), "why": why}
        connection.execute(queries()["close_gap"], values)
        connection.execute(queries()["record_closing"], values)
    return sum(b - a for a, b in missing)


def give_up(connection: Connection, promise: Promise, why: str) -> int:
    """Close what is missing of all that a machine was told is committed, whether more of it has come since or not;
    returns how many numbers that were."""
    key = {"machine": promise.machine_id, "boot": promise.boot}
    with translated(connection), connection.transaction():
        connection.execute(queries()["begin_ledger"], key)
        row = connection.execute(queries()["received_by_boot"], [promise.machine_id, promise.boot]).fetchone()
        assert row is not None
        missing = _missing(1, promise.seq, [(r.lower, r.upper) for ranges in row for r in ranges])
        if missing:
            values = {**key, "seqs": Int8Multirange([Int8Range(a, b) for a, b in missing]), "why": why}
            connection.execute(queries()["close_gap"], values)
            connection.execute(queries()["record_closing"], values)
    return sum(b - a for a, b in missing)


def _missing(first: int, last: int, known: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of [first, last] outside of the half open ranges `known`, half open."""
    out, at = [], first
    for lower, upper in sorted(known):
        if lower > last:
            break
        if lower > at:
            out.append((at, lower))
        at = max(at, upper)
    return [*out, (at, last + 1)] if at <= last else out
