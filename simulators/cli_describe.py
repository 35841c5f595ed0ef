"""`linesim describe`: a line by theory, before anything runs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mes.errors import ConfigError

if TYPE_CHECKING:
    from simulators.scenario import Scenario


def command(
    seeds: Callable[[Any], Any], folder: Callable[[Path | None], Path], load: Callable[[Path | None, str], Scenario]
) -> click.Command:
    """The command, with the option for seeds and the ways to find them that the others have."""

    @click.command()
    @click.argument("line")
    @click.option("--day", type=click.DateTime(["%Y-%m-%d"]), show_default="today", help="Production day: its target and planned hours.")
    @click.option("--target", type=click.IntRange(1), show_default="that of the seeds", help="Good cells a day.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
    @seeds
    def describe(line: str, day: dt.datetime | None, target: int | None, as_json: bool, seeds: Path | None) -> None:
        """Show the route of a line with takt, utilisation, bottleneck and the bounds that theory sets."""
        from mes.seeds import load_plant
        from simulators.describe import describe, target_of

        scenario = load(seeds, line)
        date = day.date() if day else dt.datetime.now(scenario.site.tz).date()
        plan = target_of(load_plant(folder(seeds)).targets, scenario.line.path, date)
        if target is None and plan is None:
            raise ConfigError(f"line {scenario.line.path} has no target in targets.toml: add one, or say --target")
        figures = describe(scenario, target or (plan.cells_per_day if plan else 1), date)
        if as_json:
            click.echo(json.dumps(figures.as_dict()))
            return
        from rich.console import Console

        from simulators.screen import description

        console = Console()
        Console(width=max(console.width, 150)).print(description(figures))

    return describe
