"""`mes retention`: how long events are kept, for people."""

from __future__ import annotations

import click

_DAYS = click.IntRange(1, 36500)


@click.group()
def retention() -> None:
    """How long events are kept. Sums stay for ever, and with them every figure by day, shift and hour.

    Events go by whole days, when all lines have closed them and nothing waits to be summed. `mes rollup` looks for such days every
    hour; nothing is dropped unless a number of days is set.
    """


@retention.command()
def show() -> None:
    """Show the settings, what was dropped, and what keeps more from going."""
    from mes import present, settings
    from mes.store import retention as store
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes retention") as connection:
        kept = store.settings(connection)
        click.echo(f"events are kept {_days(kept.keep_days, 'for ever')}")
        click.echo(f"compressed {_days(kept.compress_days, 'never', 'after ')}, where TimescaleDB has it")
        click.echo(f"dropped: {f'all before {kept.horizon:%Y-%m-%d %H:%M}Z' if kept.horizon else 'nothing'}")
        if kept.keep_days:
            _tell(store.outlook(connection, kept.keep_days))
        if rows := store.dropped(connection, 10):
            click.echo("")
            present.print_table(
                ("from", "to", "dropped", "by"),
                [(f"{a:%Y-%m-%d %H:%M}Z", f"{b:%Y-%m-%d %H:%M}Z", f"{at:%Y-%m-%d %H:%M:%S}Z", by) for a, b, at, by in rows],
            )


@retention.command("set")
@click.option("--days", type=_DAYS, help="keep events so many days")
@click.option("--off", is_flag=True, help="keep them for ever")
def set_(days: int | None, off: bool) -> None:
    """Set how long events are kept. What is gone stays gone, whatever is set later."""
    from mes import settings
    from mes.store import retention as store
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes retention") as connection:
        store.keep(connection, _one(days, off))
    click.echo(f"events are kept {_days(days, 'for ever')}")


@retention.command()
@click.option("--days", type=_DAYS, help="compress events when they are so many days old")
@click.option("--off", is_flag=True, help="compress no more of them")
def compress(days: int | None, off: bool) -> None:
    """Set after how many days TimescaleDB compresses events; late ones are stored all the same."""
    from mes import settings
    from mes.store import timescale
    from mes.store.connection import connect

    with connect(settings.database_url(), application="mes retention", autocommit=False) as connection:
        problem = timescale.set_compression(connection, _one(days, off))
    click.echo(f"events are compressed {_days(days, 'never', 'after ')}" + (f", but {problem}" if problem else ""))


@retention.command()
@click.option("--dry-run", is_flag=True, help="say what would go, and drop nothing")
@click.option("--days", type=_DAYS, help="with --dry-run: as if events were kept so many days")
def run(dry_run: bool, days: int | None) -> None:
    """Drop now what the settings let go, instead of waiting for `mes rollup`."""
    from mes import settings
    from mes.errors import ConfigError
    from mes.store import retention as store
    from mes.store.connection import connect

    if days and not dry_run:
        raise ConfigError(f"--days {days} without --dry-run: `mes retention set --days {days}` is what run goes by")
    with connect(settings.database_url(), application="mes retention") as connection:
        keep = days or store.settings(connection).keep_days
        if keep is None:
            raise ConfigError("events are kept for ever: `mes retention set --days N` first, or give --dry-run --days N")
        if dry_run:
            _tell(store.outlook(connection, keep))
            return
    end = None
    for end in store.run(settings.database_url()):
        click.echo(f"events before {end:%Y-%m-%d %H:%M}Z dropped")
    if end is None:
        click.echo("nothing to drop")


def _one(days: int | None, off: bool) -> int | None:
    from mes.errors import ConfigError

    if (days is None) != off:
        raise ConfigError("give either --days N or --off")
    return days


def _days(days: int | None, never: str, before: str = "") -> str:
    return never if days is None else f"{before}{days} day{'' if days == 1 else 's'}"


def _tell(outlook: object) -> None:
    from mes.store.retention import Outlook

    assert isinstance(outlook, Outlook)
    click.echo(f"events before {outlook.upto:%Y-%m-%d %H:%M}Z may go")
    for line, day, bucket in outlook.waits:
        reasons = [f"day {day} is not closed"] if day else []
        reasons += [f"what came for {bucket:%Y-%m-%d %H:%M}Z is not summed yet"] if bucket else []
        click.echo(f"  {line} keeps more from going: {', '.join(reasons)}")
