"""The demo that a person watches: simulated lines beside the backend, their figures in the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mes.demo.figures import Figures
from mes.plant import Plant
from mes.present import count, percent
from mes.up import Stack, where_to_look

_TABLE_S: Final = 1.0
_PLAIN_S: Final = 5.0  # between lines where there is no terminal


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
            live.update(_table(stack.plant, figures.lines(), figures.received()), refresh=True)
            time.sleep(_TABLE_S)


def _show_lines(_console: Console, stack: Stack, figures: Figures) -> None:
    while True:
        due = time.monotonic() + _PLAIN_S
        while time.monotonic() < due:
            stack.tend()
            time.sleep(0.2)
        lines, received = figures.lines(), figures.received()
        if lines is None or received is None:
            stack.say("the database does not answer")
            continue
        for path, row in sorted(lines.items()):
            made = f"{count(row['good'])} good of {count(row['target'])} ({percent(row['attainment'])})"
            yields = f"output yield {percent(row['output_yield'])}, rolled throughput yield {percent(row['rolled_throughput_yield'])}"
            stored = f"{count(received.get(path))} events stored, the last at {_time(row)}"
            stack.say(f"{path} {row['production_day'] or '–'}: {made}, {yields}, {stored}")


def _table(plant: Plant, lines: Mapping[str, Mapping[str, Any]] | None, received: Mapping[str, int] | None) -> Table:
    away = "" if lines is not None and received is not None else " (the database does not answer)"
    table = Table(title=f"Lines now{away}", title_justify="left")
    for name in ("line", "production day", "last event"):
        table.add_column(name)
    for name in ("good", "target", "attainment", "output yield", "rolled throughput yield", "events stored"):
        table.add_column(name, justify="right")
    for path in sorted(plant.lines):
        row = (lines or {}).get(path, {})
        figures = [count(row.get("good")), count(row.get("target")), percent(row.get("attainment"))]
        yields = [percent(row.get("output_yield")), percent(row.get("rolled_throughput_yield"))]
        table.add_row(path, str(row.get("production_day") or "–"), _time(row), *figures, *yields, count((received or {}).get(path)))
    return table


def _time(row: Mapping[str, Any]) -> str:
    """When the line's last event happened, by the site's clock."""
    at = row.get("last_event_at")
    return f"{at.astimezone(ZoneInfo(row['zone'])):%H:%M:%S}" if at else "–"
