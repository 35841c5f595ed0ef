"""The command line: `mes`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from pathlib import Path
from typing import Any

import click

from mes import logs
from mes.cli_asyncapi import asyncapi
from mes.cli_doctor import doctor
from mes.cli_ledger import ledger
from mes.cli_pki import pki
from mes.cli_quarantine import quarantine
from mes.cli_report import report
from mes.cli_retention import retention
from mes.errors import MesError, Unavailable

EXIT_CONFIG, EXIT_UNAVAILABLE = 2, 3


class _Group(click.Group):
    """Prints our errors as one line and leaves with a code that says whether trying again can help."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Unavailable as why:
            _last_words(why)
            ctx.exit(EXIT_UNAVAILABLE)
        except MesError as why:
            _last_words(why)
            ctx.exit(EXIT_CONFIG)


def _last_words(why: MesError) -> None:
    if logs.is_json():
        logging.getLogger("mes").error("%s", why)
    else:
        click.echo(f"mes: {why}", err=True)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "MES", "show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--database", "database_url", envvar="MES_DATABASE_URL", show_envvar=True, help="postgresql://user:password@host/database")
@click.option(
    "--database-password-file",
    envvar="MES_DATABASE_PASSWORD_FILE",
    show_envvar=True,
    help="file that holds the password, for a URL without one",
)
@click.option("--broker", "broker_url", envvar="MES_BROKER_URL", show_envvar=True, help="mqtt://user:password@host:1883, or mqtts://")
@click.option(
    "--broker-ca", envvar="MES_BROKER_CA", show_envvar=True, help="authority to trust with mqtts://, PEM  [default: the system's]"
)
@click.option("--broker-cert", envvar="MES_BROKER_CERT", show_envvar=True, help="certificate of this client at the broker, PEM")
@click.option("--broker-key", envvar="MES_BROKER_KEY", show_envvar=True, help="its private key, PEM")
@click.option(
    "--log-level", envvar="MES_LOG_LEVEL", show_envvar=True, default="info", type=click.Choice(["debug", "info", "warning", "error"])
)
@click.option(
    "--log-format",
    envvar="MES_LOG_FORMAT",
    show_envvar=True,
    default="text",
    type=click.Choice(["text", "json"]),
    help="of what goes to stderr",
)
@click.pass_context
def main(ctx: click.Context, /, log_level: str, log_format: logs.Form, **servers: str | None) -> None:
    """Counts battery cells against their targets: events from MQTT into PostgreSQL or TimescaleDB, figures out of it."""
    import os

    # one source of settings for commands and for the processes they start
    os.environ.update({f"MES_{name.upper()}": value for name, value in servers.items() if value})
    logs.configure(log_level, log_format, ctx.invoked_subcommand or "")


_wait = click.option(
    "--wait", envvar="MES_WAIT", show_envvar=True, default=0.0, help="for so many seconds, wait for a database that does not answer"
)


@main.command()
@click.option(
    "--timescaledb",
    envvar="MES_TIMESCALEDB",
    show_envvar=True,
    default="auto",
    type=click.Choice(["auto", "require", "off"]),
    help="events in chunks of a day: where the server can, or else be refused, or never",
)
@_wait
def migrate(timescaledb: str, wait: float) -> None:
    """Bring the database's schema up to this program, and its events into TimescaleDB's chunks where there is one."""
    from mes import settings
    from mes.store import migrate as run
    from mes.tasks import within

    url = settings.database_url()
    applied = within(wait, lambda: run.migrate(url, timescaledb, click.echo))
    click.echo(f"applied {', '.join(applied)}" if applied else "nothing to apply")


@main.command()
@click.option("--seeds", envvar="MES_SEEDS", show_envvar=True, type=click.Path(path_type=Path), help="folder that describes the plants")
@_wait
def seed(seeds: Path | None, wait: float) -> None:
    """Load sites, lines, products and targets from a seeds folder."""
    from mes import settings
    from mes.seeds import load_plant
    from mes.store import seed as run
    from mes.tasks import within

    loaded = load_plant(seeds or settings.seeds())
    url = settings.database_url()
    changed = within(wait, lambda: run.seed(url, loaded))
    click.echo(f"{len(loaded.sites)} sites, {len(loaded.lines)} lines: {'loaded' if changed else 'unchanged'}")


def _metrics_options(command: Any) -> Any:
    port = click.option(
        "--metrics-port",
        envvar="MES_METRICS_PORT",
        show_envvar=True,
        type=click.IntRange(1, 65535),
        help="serve /metrics (Prometheus), /healthz and /readyz on this port  [default: do not]",
    )
    host = click.option("--metrics-host", envvar="MES_METRICS_HOST", show_envvar=True, default="127.0.0.1", help="address to serve them on")
    return port(host(command))


@main.command()
@click.option("--line", "lines", multiple=True, envvar="MES_LINES", show_envvar=True, help="only this line (path); may be repeated")
@_metrics_options
def ingest(lines: tuple[str, ...], metrics_port: int | None, metrics_host: str) -> None:
    """Store events of the lines whose lease can be had, until stopped."""
    from mes import metrics, settings
    from mes.health import Health, serve
    from mes.ingest import ingest as run
    from mes.ingest import relax_collector
    from mes.tasks import stop_on_signals

    relax_collector()
    health = Health()
    if metrics_port:
        serve(metrics_host, metrics_port, metrics.INGEST, health)

    async def service() -> None:
        async with health.beating():
            await run(settings.database_url(), settings.broker_url(), stop_on_signals(), frozenset(lines), health)

    asyncio.run(service())


@main.command()
@click.option("--all", "everything", is_flag=True, help="sum history anew and end")
@click.option("--line", help="with --all: only this line (path)")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="with --all: first production day")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="with --all: last production day")
@click.option(
    "--marks-within",
    envvar="MES_MARKS_WITHIN",
    show_envvar=True,
    default=300.0,
    type=click.FloatRange(min=0, min_open=True),
    help="not ready (/readyz) while a mark has waited for more seconds than these",
)
@_metrics_options
def rollup(
    everything: bool,
    line: str | None,
    first: dt.datetime | None,
    last: dt.datetime | None,
    marks_within: float,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Keep the sums true and publish the figures, until stopped."""
    import os

    from mes import metrics, settings
    from mes import rollup as run
    from mes.health import Health, serve
    from mes.tasks import stop_on_signals

    if everything:
        from rich.progress import Progress

        left: list[str] = []
        with Progress() as bar:
            task = bar.add_task("buckets", total=None)
            n = run.recompute_all(
                settings.database_url(),
                line,
                first.date() if first else None,
                last.date() if last else None,
                lambda done, total: bar.update(task, completed=done, total=total),
                left.append,
            )
        click.echo(f"{n} buckets summed")
        for text in left:
            click.echo(text)
        return

    health = Health()
    if metrics_port:
        serve(metrics_host, metrics_port, metrics.ROLLUP, health)

    async def service() -> None:
        broker = settings.broker_url() if os.environ.get("MES_BROKER_URL") else None
        async with health.beating():
            await run.rollup(settings.database_url(), broker, stop_on_signals(), health, marks_within)

    asyncio.run(service())


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


main.add_command(asyncapi)
main.add_command(ledger)
main.add_command(quarantine)
main.add_command(pki)
main.add_command(retention)
main.add_command(doctor)
main.add_command(report)


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
@click.option(
    "--metrics-port",
    envvar="MES_METRICS_PORT",
    show_envvar=True,
    type=click.IntRange(1, 65534),
    help="ingest serves metrics and its health on this port, rollup on the next  [default: do not]",
)
def up(home: Path | None, seeds: Path | None, board_port: int, metrics_port: int | None) -> None:
    """Run the whole backend: on the database and broker that are given, or on embedded ones."""
    from mes.up import up as run

    run(home=home, seeds=seeds, board_port=board_port, metrics_port=metrics_port)


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
