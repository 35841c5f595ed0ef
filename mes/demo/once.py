"""The demo that checks itself: one production day of every line through broker and database, compared with the truth."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from mes import settings
from mes.calendar import Calendar
from mes.demo.figures import Figures
from mes.embedded import process
from mes.errors import ConfigError, MesError
from mes.plant import Line, Plant
from mes.present import count
from mes.up import Service, Stack, given_urls

_TICK_S: Final = 0.2
_SAY_S: Final = 5.0  # between lines where there is no terminal
_STALL_S: Final = 60.0
_FIRST_S: Final = 300.0  # until the simulators' first event: a slow machine compiles their kernels for the first time


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
                _explain(stack, str(why))
                return 1
            seconds = time.monotonic() - began
            _print_report(console, stack, day)
            differences = _differences(simulations, figures)
            events = figures.received_of_all() or 0
    finally:
        lock.release()
    console.print(
        f"{events:,} events in {seconds:.1f} s, {events / seconds:,.0f} a second, from the machines' messages to the report", soft_wrap=True
    )
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
        expected: int | None = None
        most_marks = 1
        while True:
            stack.tend()
            fraction = sum(s.fraction for s in simulations) / len(simulations)
            if expected is None and all(s.service.finished for s in simulations):
                expected = sum(day["events"] for s in simulations for day in _truth(s).values())
            here, marks = figures.received_of_all(), figures.marks()
            most_marks = max(most_marks, marks or 0)
            all_here = expected is not None and here == expected
            bar.update(simulated, completed=fraction)
            bar.update(stored, completed=(here or 0) / expected if expected else 0.0, state=f"{count(here)} of {count(expected)} events")
            bar.update(summed, completed=1.0 - (marks or 0) / most_marks if all_here else 0.0, state=f"{count(marks)} marks left")
            if all_here and marks == 0:
                return
            now = time.monotonic()
            state = f"simulated {fraction:.1%}, {count(here)} of {count(expected)} events stored, {count(marks)} marks left to sum"
            if before != (before := (fraction, here, marks)):
                moved = now
            elif now - moved > (_STALL_S if here else _FIRST_S):
                raise _Stalled(f"nothing has moved for {now - moved:.0f} s: {state}")
            if bar.disable and now - said > _SAY_S:
                said = now
                stack.say(state)
            time.sleep(_TICK_S)


def _truth(simulation: Simulation) -> dict[str, dict[str, Any]]:
    """What was simulated, by production day, as the simulator counted it."""
    try:
        days: dict[str, dict[str, Any]] = json.loads(simulation.ledger.read_text(encoding="utf-8"))["days"]
    except (OSError, ValueError, KeyError) as why:
        raise MesError(f"{simulation.ledger}: no ledger of what was simulated: {why}") from why
    return days


def _differences(simulations: Sequence[Simulation], figures: Figures) -> list[str]:
    """Where the report's views and the ledgers disagree: lines, hours, stations, defects and machines, every count."""
    found = []
    for simulation in simulations:
        path = simulation.line.path
        for day, truth in _truth(simulation).items():
            reported = figures.counts(path, dt.date.fromisoformat(day))
            simulated: dict[str, int] = {"started": truth["starts"]} | {name: truth[name] for name in ("events", "good", "scrap")}
            simulated |= {f"hour {hour} good": good for hour, good in enumerate(truth["hourly_good"])}
            for station, counts in truth["stations"].items():
                names = {
                    "good": "pass",
                    "rework": "rework",
                    "scrap": "scrap",
                    "inspected": "inspected",
                    "first_pass_good": "first_pass_good",
                }
                simulated |= {f"station {station} {name}": counts[own] for name, own in names.items()}
                simulated |= {f"defect {station} {defect}": n for defect, n in counts["defects"].items()}
            simulated |= {f"machine {machine} events": row["events"] for machine, row in truth["machines"].items()}
            found += [
                f"{path} {day} {name}: reported {reported.get(name, 0)}, simulated {simulated.get(name, 0)}"
                for name in sorted(simulated.keys() | reported.keys())
                if reported.get(name, 0) != simulated.get(name, 0)
            ]
    return found


def _print_report(console: Console, stack: Stack, day: dt.date) -> None:
    width = {} if console.is_terminal else {"COLUMNS": "150"}  # a file has no width to fit into
    command = [sys.executable, "-m", "mes", "report", "daily", "--day", day.isoformat()]
    subprocess.run(command, env={**stack.environment, **width}, check=False)


def _explain(stack: Stack, problem: str) -> None:
    errors = Console(stderr=True)
    errors.print(f"mes: {problem}", markup=False, highlight=False, soft_wrap=True)
    for service in stack.services:
        errors.print(f"-- {service.log}", markup=False, highlight=False, soft_wrap=True)
        for text in process.tail(service.log, 8):
            errors.print(f"   {text}", markup=False, highlight=False, soft_wrap=True)
