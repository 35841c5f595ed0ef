"""`mes report`: figures as the views of the schema `report` hold them, for people, for programs and to be mailed."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from mes.store.report import Name, Selection
    from mes.tables import Column

_DATE = click.DateTime(["%Y-%m-%d"])


def _options(*extra: Callable[..., Any], most: int) -> Callable[..., Any]:
    """The options of a report: line, days, how many rows, in which form."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table"),
            click.option("--most", default=most, type=click.IntRange(1, 100_000), help="at most so many rows"),
            *extra,
            click.option("--to", "last", type=_DATE, help="last production day"),
            click.option("--from", "first", type=_DATE, help="first production day"),
            click.option("--day", type=_DATE, help="only this production day"),
            click.option("--line", help="only this line: path, e.g. nanjing/cells/32140-1, or code or site"),
        ):
            command = option(command)
        return command

    return add


_STATION = click.option("--station", help="only this station, by its code")


@click.group()
def report() -> None:
    """Print figures as the views of the schema `report` hold them.

    Without days: `daily` the newest ones, `day` the last that is over, all others the newest of each line.
    """


@report.command()
@_options(most=20)
def daily(**options: Any) -> None:
    """Good cells against target, and yield, by line and production day."""
    from mes import tables

    _report("daily_report", lambda _: tables.DAILY, "all", "no events", **options)


@report.command()
@_options(most=100)
def shift(**options: Any) -> None:
    """Good cells against target by line and shift."""
    from mes import tables

    _report("shift_report", lambda selection: tables.shift(selection.zones), "newest", "no shifts", **options)


@report.command("yield")
@_options(_STATION, most=100)
def yield_(**options: Any) -> None:
    """Yield and cycle time by line and station."""
    from mes import tables

    _report("yield_report", lambda _: tables.YIELD, "newest", "no station has reported a cell", **options)


@report.command()
@_options(_STATION, most=40)
def pareto(**options: Any) -> None:
    """Why cells missed the requirements, the most frequent defect first."""
    from mes import tables

    _report("pareto_report", lambda _: tables.PARETO, "newest", "no defect was reported", **options)


@report.command()
@_options(_STATION, click.option("--every", is_flag=True, help="machines of which nothing is missing, too"), most=400)
def completeness(**options: Any) -> None:
    """What is missing, late, in quarantine or came twice, by machine."""
    from mes import tables

    _report(
        "completeness_report", lambda _: tables.COMPLETENESS, "newest", "nothing is missing, late, in quarantine or came twice", **options
    )


@report.command()
@click.argument("serial")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table")
def unit(serial: str, form: str) -> None:
    """The life of one cell: every visit to a station, as its machine reported it."""
    from mes import settings, tables
    from mes.errors import ConfigError
    from mes.store import report as read
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes report") as connection:
        rows = read.unit(connection, serial)
    if not rows:
        raise ConfigError(f"unit {serial!r} has no visit that is stored: check the serial")
    _print(rows, tables.UNIT, form)


@report.command()
@click.option("--html", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="the file to write")
@click.option("--line", help="only this line  [default: all on one page]")
@click.option("--day", type=_DATE, help="the production day  [default: the last that is over]")
def day(file: Path, line: str | None, day: dt.datetime | None) -> None:
    """Write the page of a production day: one file with its plots, to be mailed or printed."""
    from mes import settings
    from mes.errors import ConfigError
    from mes.report_page import figures, page
    from mes.store import report as read
    from mes.store.connection import connect

    on = day.date() if day else None
    with connect(settings.database_url(), application="mes report") as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")  # all figures as of one moment
        selection = read.select(connection, line, on, on, "over")
        if not selection:
            raise ConfigError("no production day is over yet: say one that runs by --day")
        text = page(figures(connection, selection))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as why:
        raise ConfigError(f"--html {file}: {why.strerror}: name a file that can be written") from why
    click.echo(f"{file}: {', '.join(f'{name} {on}' for name, on in zip(selection.lines, selection.firsts, strict=True))}")


def _report(
    name: Name,
    columns: Callable[[Selection], Sequence[Column]],
    default: Literal["all", "newest"],
    nothing: str,
    *,
    line: str | None,
    day: dt.datetime | None,
    first: dt.datetime | None,
    last: dt.datetime | None,
    most: int,
    form: str,
    **values: Any,
) -> None:
    """Read and print a report; where it has no row, say that there is `nothing`."""
    from mes import settings
    from mes.errors import ConfigError
    from mes.store import report as read
    from mes.store.connection import connect

    if day and (first or last):
        raise ConfigError("--day beside --from or --to: say one day, or the ends of a stretch")
    begin, end = (at.date() if at else None for at in ((day, day) if day else (first, last)))
    with connect(settings.database_url(), application="mes report") as connection:
        selection = read.select(connection, line, begin, end, default)
        read.check_station(connection, selection, values.get("station"))
        rows = read.read(connection, name, selection, most + 1, **values)
    if selection:
        begin, end = min(selection.firsts), max(selection.lasts)
        nothing += f" on {begin}" if begin == end else f" from {begin} to {end}"
    else:
        nothing = "no production day has figures yet"
    if len(rows) > most:
        rows.pop()
        click.echo(f"these are the first {most} rows: --most for more", err=True)
    _print(rows, columns(selection), form, nothing)


def _print(rows: Sequence[dict[str, Any]], columns: Sequence[Column], form: str, nothing: str = "") -> None:
    from mes import present, tables

    if form == "json":
        click.echo(present.as_json(rows))
    elif form == "csv":
        click.echo(present.as_csv(rows), nl=False)
    elif rows:
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=180)
        console.print(tables.table(rows, columns, console))
    else:
        click.echo(nothing, err=True)
