"""`mes quarantine`: what was not understood, for people."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

import click

_FORMAT = click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table")
_LINE = click.option("--line", help="only of this line: path, e.g. nanjing/cells/32140-1")
_REASON = click.option("--reason", help="only with this reason, e.g. unknown_defect")
_IDS = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")


@click.group()
def quarantine() -> None:
    """What was not understood: look at it, replay it after a fix, or discard it on the record."""


@quarantine.command("list")
@_LINE
@_REASON
@click.option("--since", type=click.DateTime(), help="only what was seen (or discarded) since then, UTC")
@click.option("--discarded", is_flag=True, help="what was discarded, by whom and why, instead of what waits")
@click.option("--most", default=50, type=click.IntRange(min=1), help="at most so many, newest first")
@_FORMAT
def list_(line: str | None, reason: str | None, since: dt.datetime | None, discarded: bool, most: int, form: str) -> None:
    """List what waits, newest first."""
    from mes import present, settings
    from mes.store import quarantine as store
    from mes.store.connection import connect

    since = since.replace(tzinfo=dt.UTC) if since else None
    with connect(settings.database_url(), application="mes quarantine") as connection:
        rows = store.entries(connection, store.Selection(line=line, reason=reason), since, most, discarded=discarded)
    if form == "json":
        click.echo(present.as_json(rows))
    elif form == "csv":
        click.echo(present.as_csv(rows), nl=False)
    elif rows:
        names = ["id", "discarded", "by", "why"] if discarded else ["id", "last seen"]
        keys = ["discarded_at", "discarded_by", "why"] if discarded else ["last_seen_at"]
        names += ["times", "bytes", "reason", "topic", "detail"]
        keys += ["times", "bytes", "reason", "topic", "detail"]
        present.print_table(names, [(str(row["quarantine_id"]), *(_cell(row[key]) for key in keys)) for row in rows])
    else:
        click.echo("nothing was discarded" if discarded else "nothing waits in the quarantine", err=True)


@quarantine.command()
@click.argument("number", type=int, metavar="ID")
@click.option("--raw", is_flag=True, help="write the bytes to stdout, exactly as they came, and nothing else")
def show(number: int, raw: bool) -> None:
    """Show all of one entry."""
    from mes import present, settings
    from mes.store import quarantine as store
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes quarantine") as connection:
        row = store.entry(connection, number)
    payload = row.pop("payload")
    if raw:
        sys.stdout.buffer.write(payload)
        return
    for name, value in row.items():
        click.echo(f"{name:<15}{'–' if value is None else present.escaped(str(value))}")
    click.echo(f"\n{present.escaped(payload)}")


@quarantine.command()
@_IDS
@_LINE
@_REASON
@click.option("--all", "everything", is_flag=True, help="all that waits")
def replay(ids: tuple[int, ...], line: str | None, reason: str | None, everything: bool) -> None:
    """Decode entries anew, with the plant as it is seeded now: what is understood is stored, as if it came today.

    What is still not understood stays. Ingest may go on meanwhile.
    """
    from mes import present, settings
    from mes.store import quarantine as store

    outcome = store.replay(settings.database_url(), _selection(ids, line, reason, everything))
    stay = sum(n for n, _ in outcome.stays.values())
    click.echo(f"{outcome.understood} understood: {outcome.stored} events stored, {outcome.duplicates} duplicates; {stay} stay")
    for why, (n, detail) in sorted(outcome.stays.items()):
        click.echo(f"  {n} {why}, e.g. {present.escaped(detail)}")


@quarantine.command()
@_IDS
@_LINE
@_REASON
@click.option("--why", required=True, help="kept with your database user and the time")
@click.option("--yes", is_flag=True, help="do not ask")
def discard(ids: tuple[int, ...], line: str | None, reason: str | None, why: str, yes: bool) -> None:
    """Throw away the bytes of entries for good. What they were, who discarded them and why is kept."""
    from mes import settings
    from mes.errors import ConfigError
    from mes.store import quarantine as store
    from mes.store.connection import connect

    if not why.strip():
        raise ConfigError("--why is empty: say why nobody will need these")
    with connect(settings.database_url(), application="mes quarantine") as connection:
        found = store.select(connection, _selection(ids, line, reason))
        if found and not ids and not yes:
            click.confirm(f"Discard {len(found)} entries?", abort=True)
        click.echo(f"discarded {store.discard(connection, found, why.strip())}")


def _selection(ids: tuple[int, ...], line: str | None, reason: str | None, everything: bool = False) -> Any:
    from mes.errors import ConfigError
    from mes.store.quarantine import Selection

    if not (ids or line or reason or everything):
        raise ConfigError("nothing is selected: give numbers of entries, --line, --reason, or where it is offered --all")
    return Selection(ids or None, line, reason)


def _cell(value: Any) -> Any:
    from mes import present

    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    return value if isinstance(value, int) else present.escaped(str(value), 200)
