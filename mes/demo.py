"""`mes demo`: the backend beside two simulated lines, for a person to watch or, with `once`, to check a whole day.

The simulators are programs of their own that publish what real stations would: this module starts them by command line
and reads what they print, and knows nothing else of them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mes import settings
from mes.calendar import Calendar
from mes.embedded import process
from mes.errors import ConfigError, MesError, Unavailable
from mes.plant import Line, Plant
from mes.present import count, percent
from mes.store import report
from mes.store.connection import Connection, connect, translated
from mes.up import BOARD_PORT, Service, Stack, given_urls, stack_of, stopping_by_signal, where_to_look

SPEED: Final = 60.0
_TABLE_S: Final = 1.0
_PLAIN_S: Final = 5.0  # between lines where there is no terminal
_STALL_S: Final = 60.0

_RECEIVED = """
SELECT l.path, coalesce(sum(upper(r) - lower(r)), 0)::bigint
FROM mes.line l LEFT JOIN mes.station s USING (line_id) LEFT JOIN mes.machine m USING (station_id)
LEFT JOIN mes.machine_ledger g USING (machine_id) LEFT JOIN LATERAL unnest(g.received) AS r ON true
GROUP BY l.path"""
_MARKS = "SELECT count(*) FROM mes.dirty_bucket"
_EVENTS = "SELECT EXISTS (SELECT FROM mes.cell_event)"


class Figures:
    """What the database holds, asked again and again; a database that is away is None, not an error."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def received(self) -> dict[str, int] | None:
        """Events stored by line."""
        rows = self._ask(_RECEIVED)
        return None if rows is None else dict(rows)

    def marks(self) -> int | None:
        """Buckets that wait for the rollup, counted as often as they were marked."""
        rows = self._ask(_MARKS)
        return None if rows is None else rows[0][0]

    def any_events(self) -> bool:
        rows = self._ask(_EVENTS)
        return bool(rows and rows[0][0])

    def days(self, day: dt.date | None = None) -> dict[str, dict[str, Any]] | None:
        """The row of `report daily` of each line: of its newest production day, or of `day`."""
        try:
            rows = report.daily(self._open(), None, day, most=100)
        except Unavailable:
            self.close()
            return None
        newest: dict[str, dict[str, Any]] = {}
        for row in rows:
            newest.setdefault(row["line"], row)
        return newest

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._url, application="mes demo")
        return self._connection

    def _ask(self, statement: str) -> list[tuple[Any, ...]] | None:
        try:
            with translated(self._url):
                return self._open().execute(statement.encode()).fetchall()
        except Unavailable:
            self.close()
            return None


def demo(
    *,
    once: bool = False,
    day: dt.date | None = None,
    seed: int = 1,
    speed: float = SPEED,
    home: Path | None = None,
    seeds: Path | None = None,
    database_url: str | None = None,
    broker_url: str | None = None,
    board_port: int = BOARD_PORT,
) -> int:
    """Run both lines end to end; returns the exit code.

    once     one production day of every line as fast as it goes, in HOME/once made anew, then the report: 0 if it equals
             what was simulated, 1 if not or if nothing moves any more
    day      with `once`: the production day; None for the last one that is over everywhere
    seed     of the random numbers; the same seed and day give the same events
    speed    without `once`: simulated seconds a second, until the present is reached
    Else until SIGINT or SIGTERM: 0. Raises ConfigError, Refused or Unavailable with nothing left running.
    """
    try:
        with stopping_by_signal():
            if once:
                return run_once(day, seed, (home or settings.home()).absolute(), seeds, database_url, broker_url)
            watch(stack_of(home, seeds, database_url, broker_url, board_port), speed, seed)
    except KeyboardInterrupt:
        Console().print("stopped", "" if once else "; data stays, the next start goes on", sep="")
    return 130 if once else 0


# -- live --------------------------------------------------------------------------------------------------------------


def watch(stack: Stack, speed: float, seed: int) -> None:
    """Run backend and simulators, and show the figures, until KeyboardInterrupt."""
    console = Console()
    stack.say = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    with stack, contextlib.closing(Figures(stack.database_url)) as figures:
        where_to_look(stack)
        stack.wait_for_sessions()
        for line in stack.plant.lines.values():
            arguments = [
                "--speed",
                f"{speed:g}",
                "--catch-up",
                "--seed",
                str(seed),
                "--state",
                str(stack.home / "machines"),
                "--progress",
                "none",
            ]
            stack.add(f"simulator-{line.site}-{line.code}", "simulators", "run", "--line", line.path, *arguments)
        console.print("Ctrl-C stops everything; data stays.", highlight=False)
        show = _show_table if console.is_terminal else _show_lines
        show(console, stack, figures)


def _show_table(console: Console, stack: Stack, figures: Figures) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            stack.tend()
            live.update(_table(stack.plant, figures.days(), figures.received()), refresh=True)
            time.sleep(_TABLE_S)


def _show_lines(console: Console, stack: Stack, figures: Figures) -> None:
    while True:
        due = time.monotonic() + _PLAIN_S
        while time.monotonic() < due:
            stack.tend()
            time.sleep(0.2)
        days, received = figures.days(), figures.received()
        if days is None or received is None:
            stack.say("the database does not answer")
            continue
        for path, row in sorted(days.items()):
            stack.say(
                f"{path} {row['production_day']}: {count(row['good'])} good of {count(row['target'])} ({percent(row['attainment'])}), "
                f"output yield {percent(row['output_yield'])}, rolled throughput yield {percent(row['rolled_throughput_yield'])}, "
                f"{count(received.get(path))} events stored"
            )


def _table(plant: Plant, days: Mapping[str, Mapping[str, Any]] | None, received: Mapping[str, int] | None) -> Table:
    away = "" if days is not None and received is not None else " (the database does not answer)"
    table = Table(title=f"Lines now{away}", title_justify="left")
    table.add_column("line")
    table.add_column("production day")
    for name in ("good", "target", "attainment", "output yield", "rolled throughput yield", "events stored"):
        table.add_column(name, justify="right")
    for path in sorted(plant.lines):
        row = (days or {}).get(path, {})
        figures = [count(row.get("good")), count(row.get("target")), percent(row.get("attainment"))]
        yields = [percent(row.get("output_yield")), percent(row.get("rolled_throughput_yield"))]
        table.add_row(path, str(row.get("production_day", "–")), *figures, *yields, count((received or {}).get(path)))
    return table


# -- once --------------------------------------------------------------------------------------------------------------


@dataclass
class Simulation:
    """One line's simulator while it runs through the day."""

    line: Line
    service: Service
    ledger: Path

    @property
    def fraction(self) -> float:
        """How far it has come, 0 to 1, from the last line that it printed."""
        if self.service.finished:
            return 1.0
        for text in reversed(process.tail(self.service.log, 5)):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return min(1.0, float(json.loads(text)["fraction"]))
        return 0.0


def run_once(day: dt.date | None, seed: int, home: Path, seeds: Path | None, database_url: str | None, broker_url: str | None) -> int:
    """Simulate, store and sum one production day of every line, print the report and compare it with the ledgers."""
    console = Console()
    database_url, broker_url = given_urls(database_url, broker_url)
    place = home / "once"
    lock = process.Lock(home / "once.lock", "`demo --once`")
    try:
        _wipe(place)
        stack = Stack(
            place,
            (seeds or settings.seeds()).absolute(),
            database_url=database_url,
            broker_url=broker_url,
            board_port=None,
            fresh_ports=True,
            say=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )
        day = day or _last_closed_day(stack.plant)
        with stack, contextlib.closing(Figures(stack.database_url)) as figures:
            if figures.any_events():
                raise ConfigError("MES_DATABASE_URL holds events already: `demo --once` compares whole days, give it an empty database")
            stack.wait_for_sessions()
            began = time.monotonic()
            simulations = [_simulate(stack, line, day, seed) for line in stack.plant.lines.values()]
            try:
                _until_summed(console, stack, figures, simulations)
            except _Stalled as why:
                _explain(console, stack, str(why))
                return 1
            seconds = time.monotonic() - began
            _print_report(stack, day)
            differences = _differences(simulations, figures, day)
            events = sum((figures.received() or {}).values())
    finally:
        lock.release()
    console.print(f"{events:,} events in {seconds:.1f} s, {events / seconds:,.0f} a second, from the machines' messages to the report")
    console.print(f"equals what was simulated: {'no' if differences else 'yes'}")
    for text in differences:
        console.print(f"  {text}", markup=False)
    return 1 if differences else 0


class _Stalled(Exception):
    pass


def _wipe(place: Path) -> None:
    """Remove what the last time left, running or lying."""
    for folder, name, sig in (("postgres/data", "postgres", signal.SIGINT), ("nats", "nats-server", signal.SIGTERM)):
        if (place / folder).is_dir():
            process.clear(place / folder, name, sig, lambda _: None)
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as why:
        raise process.unwritable(place, why) from why


def _last_closed_day(plant: Plant) -> dt.date:
    """The last production day that is over at every site."""
    now = dt.datetime.now(dt.UTC)
    return min(Calendar(site.tz, site.day_start).day_of(now) for site in plant.sites.values()) - dt.timedelta(days=1)


def _simulate(stack: Stack, line: Line, day: dt.date, seed: int) -> Simulation:
    name = f"{line.site}-{line.code}"
    ledger = stack.home / f"ledger-{name}.json"
    arguments = [
        *("--line", line.path, "--start", day.isoformat(), "--days", "1", "--speed", "max", "--seed", str(seed)),
        *("--progress", "json", "--ledger", str(ledger), "--state", str(stack.home / "machines")),
    ]
    return Simulation(line, stack.add(f"simulator-{name}", "simulators", "run", *arguments, once=True), ledger)


def _until_summed(console: Console, stack: Stack, figures: Figures, simulations: Sequence[Simulation]) -> None:
    """Wait until all that was simulated is stored and no bucket waits; _Stalled when nothing moves for a minute."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(40),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        simulated, stored, summed = (bar.add_task(name, total=1.0, state="") for name in ("simulated", "stored", "summed"))
        before: tuple[object, ...] = ()
        moved = said = time.monotonic()
        most_marks = 1
        while True:
            stack.tend()
            fraction = sum(s.fraction for s in simulations) / len(simulations)
            expected = sum(_ledger(s)["events"] for s in simulations) if all(s.service.finished for s in simulations) else None
            received = figures.received()
            here = None if received is None else sum(received.values())
            marks = figures.marks()
            if here is not None and here == expected and marks == 0:
                for task in (simulated, stored, summed):
                    _set(bar, task, 1.0, "")
                return
            now = time.monotonic()
            if before != (before := (fraction, here, marks)):
                moved = now
            elif now - moved > _STALL_S:
                raise _Stalled(
                    f"nothing has moved for {_STALL_S:.0f} s: simulated {fraction:.1%}, {here} of {expected} events stored, {marks} marks left"
                )
            most_marks = max(most_marks, marks or 0)
            _set(bar, simulated, fraction, "")
            _set(
                bar,
                stored,
                (here or 0) / expected if expected else 0.0,
                f"{count(here)} events" + (f" of {count(expected)}" if expected else ""),
            )
            _set(bar, summed, 1.0 - (marks or 0) / most_marks if expected == here else 0.0, f"{count(marks)} marks left")
            if bar.disable and now - said > _PLAIN_S:
                said = now
                console.print(f"simulated {fraction:.1%}, {count(here)} events stored, {count(marks)} marks left to sum", highlight=False)
            time.sleep(0.2)


def _set(bar: Progress, task: TaskID, completed: float, state: str) -> None:
    bar.update(task, completed=completed, state=state)


def _ledger(simulation: Simulation) -> dict[str, Any]:
    try:
        truth: dict[str, Any] = json.loads(simulation.ledger.read_text())
    except (OSError, ValueError) as why:
        raise MesError(f"{simulation.ledger}: no ledger of what was simulated: {why}") from why
    return truth


def _differences(simulations: Sequence[Simulation], figures: Figures, day: dt.date) -> list[str]:
    """Where report and ledgers disagree."""
    reported = figures.days(day) or {}
    found = []
    for simulation in simulations:
        path, truth = simulation.line.path, _ledger(simulation)
        row = reported.get(path, {})
        found += [
            f"{path} {day} {name}: reported {row.get(name)}, simulated {truth[name]}"
            for name in ("events", "good", "scrap")
            if row.get(name) != truth[name]
        ]
    return found


def _print_report(stack: Stack, day: dt.date) -> None:
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "mes", "report", "daily", "--day", day.isoformat()], env=stack.environment, check=False)


def _explain(console: Console, stack: Stack, problem: str) -> None:
    errors = Console(stderr=True)
    errors.print(f"mes: {problem}", markup=False, highlight=False)
    for service in stack.services:
        errors.print(f"-- {service.log}", markup=False, highlight=False)
        for text in process.tail(service.log, 8):
            errors.print(f"   {text}", markup=False, highlight=False)
