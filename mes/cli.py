"""The command line: `mes`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import sys
from pathlib import Path
from typing import Any

import click

from mes.cli_ledger import ledger
from mes.cli_quarantine import quarantine
from mes.errors import MesError, Unavailable

EXIT_CONFIG, EXIT_UNAVAILABLE = 2, 3


class _Group(click.Group):
    """Prints our errors as one line and leaves with a code that says whether trying again can help."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Unavailable as why:
            click.echo(f"mes: {why}", err=True)
            ctx.exit(EXIT_UNAVAILABLE)
        except MesError as why:
            click.echo(f"mes: {why}", err=True)
            ctx.exit(EXIT_CONFIG)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "MES", "show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--database", "database_url", envvar="MES_DATABASE_URL", show_envvar=True, help="postgresql://user:password@host/database")
@click.option("--broker", "broker_url", envvar="MES_BROKER_URL", show_envvar=True, help="mqtt://user:password@host:1883, or mqtts://")
@click.option(
    "--log-level", envvar="MES_LOG_LEVEL", show_envvar=True, default="info", type=click.Choice(["debug", "info", "warning", "error"])
)
def main(database_url: str | None, broker_url: str | None, log_level: str) -> None:
    """Counts battery cells against their targets: events from MQTT into PostgreSQL or TimescaleDB, figures out of it."""
    import os

    # one source of settings for commands and for the processes they start
    if database_url:
        os.environ["MES_DATABASE_URL"] = database_url
    if broker_url:
        os.environ["MES_BROKER_URL"] = broker_url
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")


@main.command()
def migrate() -> None:
    """Bring the database's schema up to this program."""
    from mes import settings
    from mes.store import migrate as run

    applied = run.migrate(settings.database_url())
    click.echo(f"applied {', '.join(applied)}" if applied else "nothing to apply")


@main.command()
@click.option("--seeds", envvar="MES_SEEDS", show_envvar=True, type=click.Path(path_type=Path), help="folder that describes the plants")
def seed(seeds: Path | None) -> None:
    """Load sites, lines, products and targets from a seeds folder."""
    from mes import settings
    from mes.seeds import load_plant
    from mes.store import seed as run

    loaded = load_plant(seeds or settings.seeds())
    changed = run.seed(settings.database_url(), loaded)
    click.echo(f"{len(loaded.sites)} sites, {len(loaded.lines)} lines: {'loaded' if changed else 'unchanged'}")


@main.command()
@click.option("--line", "lines", multiple=True, envvar="MES_LINES", show_envvar=True, help="only this line (path); may be repeated")
@click.option(
    "--metrics-port",
    envvar="MES_METRICS_PORT",
    show_envvar=True,
    type=click.IntRange(1, 65535),
    help="serve Prometheus metrics at /metrics on this port  [default: do not]",
)
@click.option("--metrics-host", envvar="MES_METRICS_HOST", show_envvar=True, default="127.0.0.1", help="address to serve metrics on")
def ingest(lines: tuple[str, ...], metrics_port: int | None, metrics_host: str) -> None:
    """Store events of the lines whose lease can be had, until stopped."""
    from mes import metrics, settings
    from mes.ingest import ingest as run
    from mes.ingest import relax_collector
    from mes.tasks import stop_on_signals

    relax_collector()
    if metrics_port:
        metrics.serve(metrics_host, metrics_port)

    async def service() -> None:
        await run(settings.database_url(), settings.broker_url(), stop_on_signals(), frozenset(lines))

    asyncio.run(service())


@main.command()
@click.option("--all", "everything", is_flag=True, help="sum history anew and end")
@click.option("--line", help="with --all: only this line (path)")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="with --all: first production day")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="with --all: last production day")
def rollup(everything: bool, line: str | None, first: dt.datetime | None, last: dt.datetime | None) -> None:
    """Keep the sums true and publish the figures, until stopped."""
    import os

    from mes import rollup as run
    from mes import settings
    from mes.tasks import stop_on_signals

    if everything:
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("buckets", total=None)
            n = run.recompute_all(
                settings.database_url(),
                line,
                first.date() if first else None,
                last.date() if last else None,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        click.echo(f"{n} buckets summed")
        return

    async def service() -> None:
        broker = settings.broker_url() if os.environ.get("MES_BROKER_URL") else None
        await run.rollup(settings.database_url(), broker, stop_on_signals())

    asyncio.run(service())


@main.group()
def report() -> None:
    """Print figures as the views of the schema `report` hold them."""


@report.command()
@click.option("--line", help="only this line: path, e.g. nanjing/cells/32140-1")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="only this production day")
@click.option("--most", default=20, help="at most so many rows, newest first")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table")
def daily(line: str | None, day: dt.datetime | None, most: int, form: str) -> None:
    """Good cells against target, and yield, by line and production day."""
    from mes import present, settings
    from mes.errors import ConfigError
    from mes.store import report as read
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes report") as connection:
        rows = read.daily(connection, line, day.date() if day else None, most)
        if not rows and line and line not in (known := read.lines(connection)):
            raise ConfigError(f"line {line!r} is unknown: use one of {', '.join(known)}")
    if form == "json":
        click.echo(present.as_json(rows))
    elif form == "csv":
        click.echo(present.as_csv(rows), nl=False)
    elif rows:
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=140)
        console.print(present.daily_table(rows, console))
    else:
        click.echo("no production day has events yet" if not day else f"no events on production day {day:%Y-%m-%d}", err=True)


@report.command()
@click.argument("serial")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
def unit(serial: str, form: str) -> None:
    """The life of one cell: every visit to a station, as its machine reported it."""
    from mes import present, settings
    from mes.errors import ConfigError
    from mes.store import report as read
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes report") as connection:
        rows = read.unit(connection, serial)
    if not rows:
        raise ConfigError(f"unit {serial!r} has no visit that is stored: check the serial")
    if form == "json":
        click.echo(present.as_json(rows))
    else:
        present.print_table(("at", "line", "station", "machine", "attempt", "result", "defect", "readings"), present.visits(rows))


@main.command()
@click.argument("serial")
@click.option("--station", help="where it was scrapped, if at more than one station")
@click.option("--why", required=True, help="kept with your database user and the time")
def unscrap(serial: str, station: str | None, why: str) -> None:
    """Take back the scrap of the cell SERIAL: it was found, or scanned by mistake."""
    from mes import settings
    from mes.errors import ConfigError
    from mes.store.connection import connect
    from mes.store.corrections import unscrap as run

    if not why.strip():
        raise ConfigError("--why is empty: say why this was no scrap")
    with connect(settings.database_url(), application="mes unscrap") as connection:
        done = run(connection, serial, station, why.strip())
    own = done.booked_at == done.scrapped_at
    where = "on the day of the scrap" if own else "on today, as the day of the scrap is closed"
    click.echo(f"scrap by {done.machine} at {done.scrapped_at:%Y-%m-%d %H:%M:%S}Z taken back, booked {where}")


main.add_command(ledger)
main.add_command(quarantine)


@main.command()
@click.option("--host", envvar="MES_BOARD_HOST", show_envvar=True, default="127.0.0.1", help="address to listen on")
@click.option("--port", envvar="MES_BOARD_PORT", show_envvar=True, default=8787, help="port to listen on")
def board(host: str, port: int) -> None:
    """Serve the page with the lines' figures, live. With a broker (MES_BROKER_URL) it also says when that is away."""
    import os

    from mes import settings
    from mes.board.app import serve

    broker = settings.broker_url() if os.environ.get("MES_BROKER_URL") else None
    serve(settings.database_url(), broker, host, port)


def _home_options(command: Any) -> Any:
    for option in (
        click.option("--board-port", envvar="MES_BOARD_PORT", show_envvar=True, default=8787, help="port of the board on 127.0.0.1"),
        click.option(
            "--seeds", envvar="MES_SEEDS", show_envvar=True, type=click.Path(path_type=Path), help="folder that describes the plants"
        ),
        click.option("--home", envvar="MES_HOME", show_envvar=True, type=click.Path(path_type=Path), help="folder for data and logs"),
    ):
        command = option(command)
    return command


@main.command()
@_home_options
def up(home: Path | None, seeds: Path | None, board_port: int) -> None:
    """Run the whole backend: on the database and broker that are given, or on embedded ones."""
    from mes.up import up as run

    run(home=home, seeds=seeds, board_port=board_port)


@main.command()
@click.option(
    "--once", is_flag=True, help="one production day of every line as fast as it goes, then the report, checked against what was simulated"
)
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="with --once: the production day  [default: the last one that is over]")
@click.option(
    "--seed", "random_seed", envvar="MES_SEED", show_envvar=True, default=1, help="of the simulation: the same seed gives the same events"
)
@click.option("--speed", envvar="MES_SPEED", show_envvar=True, default=60.0, help="simulated seconds a second until the present is reached")
@_home_options
@click.pass_context
def demo(
    ctx: click.Context,
    once: bool,
    day: dt.datetime | None,
    random_seed: int,
    speed: float,
    home: Path | None,
    seeds: Path | None,
    board_port: int,
) -> None:
    """Run the backend beside two simulated lines."""
    from mes.demo import demo as run

    ctx.exit(run(once=once, day=day.date() if day else None, seed=random_seed, speed=speed, home=home, seeds=seeds, board_port=board_port))


if __name__ == "__main__":
    main()
