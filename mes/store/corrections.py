"""Corrections of facts: the event stays as it was reported, what is counted less is noted beside it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from mes.errors import ConfigError
from mes.store import retention
from mes.store.connection import Connection, queries, translated


@dataclass(frozen=True, slots=True)
class Scrapping:
    """A report of scrap that was taken back: where it was, and the instant whose production day it is booked on."""

    machine: str
    boot: int
    seq: int
    scrapped_at: dt.datetime
    booked_at: dt.datetime


def unscrap(connection: Connection, unit: str, station: str | None, why: str) -> Scrapping:
    """Take back the scrap of a cell: it was found, or scanned by mistake.

    While the production day of the scrap is open, the correction is booked on that day, afterwards on today. The scrap
    as reported and as corrected both stay visible. ConfigError unless exactly one report of scrap stands.
    """
    with translated(connection), connection.transaction():
        found = connection.execute(queries()["scrap_of_unit"], {"unit": unit, "station": station}).fetchall()
        standing = [row for row in found if not row[-1]]
        at = f" at station {station!r}" if station else ""
        if not standing:
            problem = "its scrap was taken back already" if found else f"no report of scrap{at} is stored"
            if not found and (horizon := retention.settings(connection).horizon):
                problem += f" (events before {horizon:%Y-%m-%d %H:%M}Z have been dropped)"
            raise ConfigError(f"unit {unit!r}: {problem}: `mes report unit` shows its visits")
        if len(standing) > 1:
            places = ", ".join(sorted({row[1] for row in standing}))
            raise ConfigError(f"unit {unit!r}: {len(standing)} reports of scrap stand, by {places}: say which with --station")
        machine_id, machine, boot, seq, line_id, scrapped_at, closed, _ = standing[0]
        values = {"machine": machine_id, "boot": boot, "seq": seq, "line": line_id, "unit": unit, "at": scrapped_at}
        row = connection.execute(queries()["unscrap"], {**values, "closed": closed, "why": why}).fetchone()
        assert row is not None
        connection.execute(queries()["mark_unscrapped"], {"line": line_id, "at": [scrapped_at, row[0]]})
        connection.execute("NOTIFY mes_marks")
    return Scrapping(machine, boot, seq, scrapped_at, row[0])
