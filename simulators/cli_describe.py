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
    from simulators.describe import Bounds, LineFigures
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
        """Show the route of a line with takt, utilisation, bottleneck and the bounds that theory sets.

        LINE is a line of the seeds, or the file of an abstract one, SCENARIO.toml.
        """
        if line.endswith(".toml"):
            if day or target:
                raise click.UsageError("an abstract line has no days and no target: leave out --day and --target")
            from simulators import abstract
            from simulators.describe import bounds

            _show(bounds(abstract.load(Path(line))), as_json)
            return
        from mes.seeds import load_plant
        from simulators.describe import describe, target_on

        scenario = load(seeds, line)
        date = day.date() if day else dt.datetime.now(scenario.site.tz).date()
        aim = target or target_on(scenario, load_plant(folder(seeds)).targets, date)
        if aim is None:
            raise ConfigError(f"line {scenario.line.path} has no target in targets.toml: add one, or say --target")
        _show(describe(scenario, aim, date), as_json)

    return describe


def _show(figures: LineFigures | Bounds, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures.as_dict()))
        return
    from rich.console import Console

    from simulators import screen

    # Wider than most terminals: a table that wraps as a whole can be read, one whose cells wrap cannot.
    console = Console()
    Console(width=max(console.width, screen.WIDTH)).print(screen.described(figures))
