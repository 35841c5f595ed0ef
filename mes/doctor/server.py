"""The database server: what it is, whether it keeps what it acknowledges, whether it has room for those who connect."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Final
from zoneinfo import ZoneInfo

from mes.doctor.finding import Check, Finding, Level, size, some, span
from mes.store.connection import OLDEST
from mes.store.look import Look
from mes.store.timescale import TIMESCALEDB

_HELD_LOG: Final = 1 << 30  # bytes of log that an unused slot may hold back
_LONG: Final = dt.timedelta(minutes=5)
_DEAD_MARKS: Final = 100_000


def program(_: Look) -> Iterator[Finding]:
    text = f"mes {importlib.metadata.version('mes')} on Python {platform.python_version()}"
    yield Finding("program.version", Level.OK, text)


def reachable(look: Look) -> Iterator[Finding]:
    host, port = look.at
    yield Finding("database.reachable", Level.OK, f"{host}:{port} answers in {look.answered_s * 1000:.1f} ms")
    if look.row("doctor_standby")[0]:
        yield Finding("database.reachable", Level.PROBLEM, "the server is a standby and takes no writes", "give the URL of the primary")


def version(look: Look) -> Iterator[Finding]:
    found = f"PostgreSQL {look.server_version // 10_000}.{look.server_version % 10_000}"
    if look.server_version < OLDEST * 10_000:
        yield Finding("database.version", Level.PROBLEM, f"{found} is too old", f"update to PostgreSQL {OLDEST} or newer")
    else:
        yield Finding("database.version", Level.OK, found)


def schema(look: Look) -> Iterator[Finding]:
    there, ours, changed = look.schema()
    name, at = "database.schema", f"the schema is at {there:04d}"
    if not there:
        yield Finding(name, Level.PROBLEM, "the database has no schema yet", "run `mes migrate`, then `mes seed`")
    elif there < ours:
        yield Finding(name, Level.PROBLEM, f"{at}, older than this program's {ours:04d}", "run `mes migrate`")
    elif there > ours:
        yield Finding(name, Level.PROBLEM, f"{at}, newer than this program's {ours:04d}", "update the program")
    elif changed:
        found = f"{some(changed)} has changed since it was applied"
        yield Finding(name, Level.PROBLEM, found, "install the program as it was released: files of migrations never change")
    else:
        yield Finding(name, Level.OK, f"{at}, as this program's")


def timescaledb(look: Look) -> Iterator[Finding]:
    installed, offered, licence, workers = look.row("doctor_timescaledb")
    name, least = "database.timescaledb", ".".join(map(str, TIMESCALEDB))
    if installed is None:
        offer = f"its packages ({offered}) are installed, but it is not switched on" if offered else "it is not installed"
        cure = (
            "install it where a plant runs for years, and run `mes migrate`: events are then dropped by the day, and compressed if licensed"
        )
        yield Finding(name, Level.NOTE, f"no TimescaleDB, {offer}: events lie in plain tables, neither compressed nor cut into days", cure)
        return
    if tuple(int(part) for part in installed.split("-")[0].split(".")[:3]) < TIMESCALEDB:
        cure = f"install {least} or newer, then ALTER EXTENSION timescaledb UPDATE"
        yield Finding(name, Level.PROBLEM, f"TimescaleDB {installed} loses rows that meet a compressed chunk (its issue 7672)", cure)
    hypertables = {table for (table,) in look.rows("doctor_hypertables")}
    if lacking := sorted({"cell_event", "state_event"} - hypertables):
        yield Finding(name, Level.WARNING, f"{some(lacking)}: no hypertable, though there is TimescaleDB {installed}", "run `mes migrate`")
    if licence != "timescale":
        found = f"TimescaleDB {installed}, Apache edition: no compression and no background jobs"
        yield Finding(name, Level.NOTE, found, "reckon with several times the disk; old events are dropped by `mes rollup`")
    elif workers == "0":
        cure = "set timescaledb.max_background_workers above 0 and restart the server"
        yield Finding(name, Level.WARNING, f"TimescaleDB {installed}: no background job can run, so nothing is compressed", cure)
    else:
        yield Finding(name, Level.OK, f"TimescaleDB {installed}, Community edition")


def durability(look: Look) -> Iterator[Finding]:
    """An event is acknowledged to its machine when it is committed: what is committed must survive the server."""
    lost = {
        "fsync": ("a crash of the machine can destroy the database", "set fsync = on"),
        "full_page_writes": ("a crash of the machine can leave torn pages", "set full_page_writes = on"),
        "synchronous_commit": ("a crash loses events that machines have been told are safe", "set synchronous_commit = on"),
    }
    settings = dict(look.rows("doctor_settings", list(lost)))
    off = [name for name in lost if settings.get(name) == "off"]
    for name in off:
        yield Finding("database.durability", Level.PROBLEM, f"{name} = off: {lost[name][0]}", lost[name][1], name)
    for role, database, setting in look.rows("doctor_overrides"):
        name, _, value = setting.partition("=")
        if name == "synchronous_commit" and value == "off" and name not in off:
            whose = f"ROLE {role}" if role else f"DATABASE {database}"
            cure = f"ALTER {whose} RESET synchronous_commit"
            yield Finding("database.durability", Level.PROBLEM, f"{whose.lower()} has {setting}: {lost[name][0]}", cure, name)
    if not off:
        yield Finding("database.durability", Level.OK, "what is committed survives a crash (fsync, full_page_writes, synchronous_commit)")


def recovery(look: Look) -> Iterator[Finding]:
    name = "database.recovery"
    mode = dict(look.rows("doctor_settings", ["archive_mode"])).get("archive_mode", "off")
    archived, failed, last, last_failed, receivers = look.row("doctor_archiver")
    if mode == "off" and not receivers:
        found = "the server's log is neither archived nor received by a standby: a lost disk takes all since the last backup"
        yield Finding(name, Level.NOTE, found, "archive it, for recovery to any point in time (the server's archive_mode, archive_command)")
    elif mode != "off" and last_failed and (last is None or last_failed > last):
        cure = "see the server's log for what archive_command says: the log stays on the disk and fills it"
        yield Finding(name, Level.PROBLEM, f"archiving of the log fails, last at {last_failed:%Y-%m-%d %H:%M}Z ({failed} times)", cure)
    else:
        how = f"{archived} files of the log are archived" if mode != "off" else f"the log goes to {receivers} receivers"
        yield Finding(name, Level.OK, how)


def slots(look: Look) -> Iterator[Finding]:
    for slot, held in look.rows("doctor_slots"):
        if held and held > _HELD_LOG:
            cure = f"reconnect its standby, or SELECT pg_drop_replication_slot('{slot}')"
            yield Finding("database.slots", Level.WARNING, f"nobody uses slot {slot}, and it holds back {size(held)} of log", cure, slot)


def zones(look: Look) -> Iterator[Finding]:
    """Server and program must agree on the sites' clocks, or a production day has two begins."""
    begin = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    instants = [begin + dt.timedelta(days=7 * n) for n in range(60)]
    known = dict(look.rows("doctor_zones", instants))
    for (zone,) in look.rows("doctor_site_zones"):
        if zone not in known:
            yield Finding(
                "database.timezones", Level.PROBLEM, f"the server knows no zone {zone}", "update its time zone data (tzdata)", zone
            )
            continue
        here = [int((at.astimezone(ZoneInfo(zone)).utcoffset() or dt.timedelta()).total_seconds()) for at in instants]
        if here != known[zone]:
            first = next(at for at, a, b in zip(instants, here, known[zone], strict=True) if a != b)
            found = f"server and program disagree on the clock of {zone} from about {first:%Y-%m-%d} on"
            yield Finding("database.timezones", Level.PROBLEM, found, "update the time zone data of both (tzdata)", zone)
    if known:
        yield Finding("database.timezones", Level.OK, f"server and program agree on {some(sorted(known))} for a year")


def vacuum(look: Look) -> Iterator[Finding]:
    if dict(look.rows("doctor_settings", ["autovacuum"])).get("autovacuum") == "off":
        yield Finding("database.autovacuum", Level.WARNING, "autovacuum = off: tables only grow, marks become slow", "set autovacuum = on")
    for dead, live in look.rows("doctor_dead_marks"):
        if dead > max(_DEAD_MARKS, 10 * live):
            cure = "look for transactions that stay open, then VACUUM mes.dirty_bucket"
            yield Finding("database.autovacuum", Level.WARNING, f"{dead:,} dead rows among {live:,} marks: nothing clears them away", cure)


def connections(look: Look) -> Iterator[Finding]:
    used, most = look.row("doctor_connections")
    share, found = used / max(most, 1), f"{used} of {most} connections are in use"
    level = Level.PROBLEM if share >= 0.95 else Level.WARNING if share >= 0.8 else Level.OK
    yield Finding("database.connections", level, found, "" if level is Level.OK else "end what does not need one, or raise max_connections")


def transactions(look: Look) -> Iterator[Finding]:
    """What holds rows against being cleared away, and locks against those who wait."""
    for pid, application, role, open_s, is_idle in look.rows("doctor_transactions", longest=_LONG):
        what = "does nothing in a transaction that it began" if is_idle else "is in a transaction that it began"
        found = f"{application or 'a client'} of {role} (process {pid}) {what} {span(open_s)} ago"
        cure = f"end it there, or SELECT pg_terminate_backend({pid})"
        yield Finding("database.transactions", Level.WARNING, found, cure, str(pid))


def encryption(look: Look) -> Iterator[Finding]:
    encrypted, protocol, cipher = look.row("doctor_encryption")
    if encrypted:
        yield Finding("tls.database", Level.OK, f"the connection to the database is encrypted ({protocol}, {cipher})")


CHECKS: Final[Mapping[str, Check[Look]]] = {
    "program.version": program,
    "database.reachable": reachable,
    "database.version": version,
    "database.timescaledb": timescaledb,
    "database.durability": durability,
    "database.recovery": recovery,
    "database.slots": slots,
    "database.autovacuum": vacuum,
    "database.connections": connections,
    "database.transactions": transactions,
    "tls.database": encryption,
}
