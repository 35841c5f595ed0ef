"""How long the disks last at the present rate."""

from __future__ import annotations

import datetime as dt
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mes.doctor.certificates import is_here
from mes.doctor.finding import Finding, Level, size
from mes.store.look import Look

_WARN_DAYS: Final = 60
_PROBLEM_DAYS: Final = 14
_RESERVE: Final = 2 << 30  # the server's log and its sorting want room too
_BYTES_AN_EVENT: Final = 300.0  # with index, ledger and sums, where there are too few to measure
_ENOUGH: Final = 500_000
_EVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def database(look: Look, given: Path | None, home: Path) -> Iterator[Finding]:
    """Days until the database's disk is full; `given` is where that disk is seen from here, `home` the folder of an
    embedded server."""
    keep_days, horizon = _retention(look)
    total, held, days, recent = look.row("doctor_growth", horizon or _EVER)
    measured = held >= _ENOUGH
    each = total / held if measured else _BYTES_AN_EVENT
    grows = each * recent / days if days else 0.0
    basis = f"{recent / max(days, 1):,.0f} events of {each:.0f} bytes{'' if measured else ', reckoned'}"
    rate = f"{size(total)}, and {size(grows)} a day more ({basis})"
    folder, why = _seen(look, given or (home / "postgres" if look.is_embedded else None))
    if folder is None:
        found = f"the database has {rate if days else size(total)}; its disk cannot be seen from here: {why}"
        cure = "run doctor on its host, or mount a folder of that disk here and name it with --database-disk (MES_DATABASE_DISK)"
        yield Finding("disk.database", Level.NOTE, found, cure)
        return
    free = _free(folder)
    if not days:
        level = Level.WARNING if free < 2 * _RESERVE else Level.OK
        found = f"the database has {size(total)}, {size(free)} are free; no production day is over yet, so nothing is known of the rate"
        yield Finding("disk.database", level, found, "make room" if level is Level.WARNING else "")
        return
    left = max(0.0, free - _RESERVE) / grows
    found = f"the database has {rate}; {size(free)} are free: {_days(left)}"
    if keep_days is not None:
        more = max(0.0, keep_days * grows - total)
        found += f"; events are kept {keep_days} days, which takes {size(more)} more"
        if more < free - _RESERVE:
            yield Finding("disk.database", Level.OK, f"{found} and fits")
            return
    level = Level.PROBLEM if left < _PROBLEM_DAYS else Level.WARNING if left < _WARN_DAYS else Level.OK
    cure = "give it a larger disk, or keep events for less long (`mes retention`)"
    yield Finding("disk.database", level, found, "" if level is Level.OK else cure)


def home(folder: Path) -> Iterator[Finding]:
    """The disk of the embedded parts, logs and journals."""
    if not folder.exists():
        return
    free = _free(folder)
    level = Level.PROBLEM if free < _RESERVE // 2 else Level.WARNING if free < _RESERVE else Level.OK
    yield Finding("disk.home", level, f"{size(free)} are free under {folder}", "make room" if level is not Level.OK else "")


def _retention(look: Look) -> tuple[int | None, dt.datetime | None]:
    """For how many days events are kept (None: for ever), and from when on they are there."""
    for keep_days, horizon in look.rows("doctor_retention") if look.has("mes.retention") else []:
        return keep_days, horizon
    return None, None


def _seen(look: Look, given: Path | None) -> tuple[Path | None, str]:
    """A folder on the database's disk as it is seen here, or why there is none."""
    if given is not None:
        return (given, "") if given.exists() else (None, f"{given} is not there")
    host, port = look.at
    if not is_here(host):
        return None, f"it is on {host}"
    settings = dict(look.rows("doctor_settings", ["data_directory"]))
    if not settings.get("data_directory"):
        return None, "this role may not see where it lies (grant it pg_read_all_settings)"
    folder = Path(settings["data_directory"])
    try:
        os.statvfs(folder)
        ours = _system_identifier(folder)
    except OSError as why:
        return None, f"{folder}: {why.strerror}"
    if ours is not None and ours != look.row("doctor_system")[0]:
        return None, f"{folder} holds another server's data: port {port} leads elsewhere"
    return folder, ""


def _system_identifier(folder: Path) -> int | None:
    """The number of the server whose data these are; None where we may not read it."""
    try:
        with (folder / "global" / "pg_control").open("rb") as file:
            return int(struct.unpack("=Q", file.read(8))[0])
    except PermissionError:
        return None


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _days(left: float) -> str:
    return f"enough for {left:,.0f} days" if left < 10_000 else "enough for decades"
