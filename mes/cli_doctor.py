"""`mes doctor`: is everything well?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--probe-queue",
    is_flag=True,
    envvar="MES_PROBE_QUEUE",
    show_envvar=True,
    help="try what the broker's queues keep: 1,500 small messages under mes/doctor/, taken away again",
)
@click.option(
    "--database-disk",
    envvar="MES_DATABASE_DISK",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="a folder on the disk of the database, as it is seen here  [default: found out]",
)
@click.option("--seeds", envvar="MES_SEEDS", show_envvar=True, type=click.Path(path_type=Path), help="folder that describes the plants")
@click.option("--home", envvar="MES_HOME", show_envvar=True, type=click.Path(path_type=Path), help="folder of the embedded parts")
@click.option(
    "--within",
    envvar="MES_DOCTOR_WITHIN",
    show_envvar=True,
    default=30.0,
    type=click.FloatRange(1, 600),
    help="seconds for everything, whatever hangs",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def doctor(
    ctx: click.Context, probe_queue: bool, database_disk: Path | None, seeds: Path | None, home: Path | None, within: float, form: str
) -> None:
    """Look at database, broker, certificates, clocks, disks and backend, and say for each finding what to do.

    Changes nothing. Ends with 0 where all is well (notes are no trouble), 1 with warnings, 2 with problems, 3 where neither database
    nor broker is named.
    """
    from mes import settings
    from mes.doctor import show
    from mes.doctor.examine import Scope, examine
    from mes.doctor.finding import NOT_LOOKED, exit_code

    urls: list[str | None] = []
    for name, ask in (("MES_DATABASE_URL", settings.database_url), ("MES_BROKER_URL", settings.broker_url)):
        urls.append(ask() if os.environ.get(name) else None)
    if not any(urls):
        click.echo("mes: neither MES_DATABASE_URL nor MES_BROKER_URL is set: nothing can be looked at", err=True)
        ctx.exit(NOT_LOOKED)
    scope = Scope(urls[0], urls[1], home or settings.home(), seeds or settings.seeds(), database_disk, probe_queue, within)
    findings = examine(scope)
    if form == "json":
        click.echo(show.as_json(findings))
    else:
        from rich.console import Console

        show.print_table(findings, Console() if sys.stdout.isatty() else Console(width=100))
    ctx.exit(exit_code(findings))
