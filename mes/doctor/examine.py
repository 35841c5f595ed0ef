"""All checks of a deployment, server by server at the same time, within a bounded time: one that hangs keeps no other from being seen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mes import probe
from mes.broker import answers
from mes.doctor import broker, certificates, clocks, disk, roles, server, work
from mes.doctor.finding import Finding, Level, run
from mes.errors import MesError
from mes.logs import said
from mes.settings import without_password
from mes.store.look import Look, address

log = logging.getLogger(__name__)

_KNOWN_S: Final = 5.0  # for which the broker's part waits for what the database knows
_TRIAL_S: Final = 60.0

Keep = Callable[[Finding], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """What to look at.

    database, broker    URLs; None: not looked at
    home                folder of the embedded parts, which may not be there
    seeds               folder that the plant was loaded from, which may not be there
    database_disk       a folder on the disk of the database as it is seen here; None: found out
    try_queue           whether to try what the broker's queues keep
    within              seconds
    """

    database: str | None
    broker: str | None
    home: Path
    seeds: Path
    database_disk: Path | None = None
    try_queue: bool = False
    within: float = 30.0


@dataclass(slots=True)
class _Known:
    """What the database says that others need: active lines, and which database it is."""

    lines: set[str] = field(default_factory=set)
    identity: str = ""


def examine(scope: Scope) -> list[Finding]:
    """Look at everything, and return what was found by then; it ends within `scope.within` seconds (a trial has some more)."""
    found: list[Finding] = []
    known: Future[_Known] = Future()
    parts: dict[str, Callable[[], None]] = {
        "database": lambda: _database(scope, found.append, known),
        "broker": lambda: _broker(scope, found.append, known),
        "tls": lambda: _certificates(scope, found.append),
        "disk": lambda: _keep_all(disk.home(scope.home), found.append),
    }

    def guarded(name: str) -> None:
        try:
            parts[name]()
        except MesError as why:
            found.append(Finding(f"{name}.reachable", Level.PROBLEM, str(why), "correct that, and run doctor again"))
        except Exception as why:
            log.exception("a check has failed")
            text = f"not everything was looked at: a fault of doctor's own ({said(why)})"
            found.append(Finding(f"{name}.fault", Level.PROBLEM, text, "report it, with what stands in the log"))

    running = {name: threading.Thread(target=guarded, args=[name], name=f"doctor {name}", daemon=True) for name in parts}
    deadline = time.monotonic() + scope.within + (_TRIAL_S if scope.try_queue else 0.0)
    for thread in running.values():
        thread.start()
    late = []
    for name, thread in running.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            cure = "see what hangs there; --within gives it more time"
            late.append(Finding(f"{name}.reachable", Level.PROBLEM, f"not everything answered within {scope.within:.0f} s", cure))
    return [*found, *late]


def _database(scope: Scope, keep: Keep, known: Future[_Known]) -> None:
    look = None
    try:
        if scope.database is None:
            keep(_not_named("database.reachable", "MES_DATABASE_URL"))
            return
        look = Look(scope.database, is_embedded=_is_embedded(scope))
        run({**server.CHECKS, "clock.database": clocks.database, **roles.CHECKS}, look, keep)
        schema: list[Finding] = []
        run({"database.schema": server.schema}, look, schema.append)
        _keep_all(schema, keep)
        if all(finding.level is Level.OK for finding in schema):
            _content(scope, look, keep, known)
    except MesError as why:
        keep(Finding("database.reachable", Level.PROBLEM, str(why), "start it, or correct MES_DATABASE_URL"))
    finally:
        if not known.done():
            known.set_result(_Known())
        if look is not None:
            look.close()


def _content(scope: Scope, look: Look, keep: Keep, known: Future[_Known]) -> None:
    """What can be asked only of a schema that is this program's."""

    def lines(_: Look) -> Iterator[Finding]:
        known.set_result(_Known({path for (path,) in look.rows("line_paths")}, str(look.row("database")[0])))
        return iter(())

    def disk_left(_: Look) -> Iterator[Finding]:
        return disk.database(look, scope.database_disk, scope.home)

    run({"database.known": lines, "database.timezones": server.zones, "disk.database": disk_left}, look, keep)
    run({**clocks.CHECKS, **work.CHECKS}, work.Work(look, scope.seeds), keep)


def _broker(scope: Scope, keep: Keep, known: Future[_Known]) -> None:
    if scope.broker is None:
        keep(_not_named("broker.reachable", "MES_BROKER_URL"))
        return
    try:
        began = time.perf_counter()
        asyncio.run(answers(scope.broker, probe.name()))
        keep(
            Finding(
                "broker.reachable", Level.OK, f"{without_password(scope.broker)} answers in {(time.perf_counter() - began) * 1000:.0f} ms"
            )
        )
        try:
            lines = known.result(_KNOWN_S)
        except TimeoutError:
            lines = _Known()
        heard = asyncio.run(probe.listen(scope.broker, lines.lines, broker.LISTEN_S))
        _keep_all(broker.said(heard), keep)
        _keep_all(broker.holders(heard, lines.lines, lines.identity), keep)
        _keep_all(clocks.workers(heard), keep)
        _keep_all(broker.tried(asyncio.run(probe.attempt(scope.broker))) if scope.try_queue else [broker.not_tried()], keep)
    except MesError as why:
        keep(Finding("broker.reachable", Level.PROBLEM, str(why), "start it, or correct MES_BROKER_URL"))


def _certificates(scope: Scope, keep: Keep) -> None:
    if scope.broker is not None:
        _keep_all(certificates.of_broker(scope.broker), keep)
    if scope.database is not None:
        _keep_all(certificates.of_database(scope.database, *address(scope.database)), keep)
    _keep_all(certificates.of_files(scope.database or "", scope.broker or ""), keep)


def _keep_all(findings: Iterable[Finding], keep: Keep) -> None:
    for finding in findings:
        keep(finding)


def _not_named(name: str, setting: str) -> Finding:
    return Finding(name, Level.WARNING, f"not looked at: {setting} is not set", f"export {setting}")


def _is_embedded(scope: Scope) -> bool:
    """Whether the database is the embedded one of this machine, which one role uses for everything."""
    try:
        port = (scope.home / "postgres" / "port").read_text().strip()
    except OSError:
        return False
    return bool(scope.database) and address(scope.database or "") == ("127.0.0.1", int(port) if port.isdigit() else 0)
