"""`linesim throughput`: how much an abstract line makes."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--parts", type=int, default=1_000_000, envvar="MES_PARTS", show_envvar=True, help="Good cells to make.")
@click.option("--seed", type=int, default=1, envvar="MES_SEED", show_envvar=True, help="The same seed gives the same figures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def throughput(scenario: Path, parts: int, seed: int, as_json: bool) -> None:
    """Run an abstract line (SCENARIO.toml) and show its throughput with a 99.9 % confidence interval."""
    from simulators import abstract
    from simulators.throughput import measure

    found = measure(abstract.load(scenario), parts, seed)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("station", *(f"{name} %" for name in ("execute", "down", "blocked", "starved")))
    for s in found.stations:
        table.add_row(s.name, *(f"{100 * share:.2f}" for share in (s.execute, s.down, s.blocked, s.starved)))
    console = Console()
    console.print(table)
    console.print(f"throughput {found.throughput:.6g} +- {found.half_width:.2g} a time unit (99.9 %), {found.parts:,} cells")
