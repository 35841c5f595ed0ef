"""`mes ledger`: what machines have sent and what is missing, for people."""

from __future__ import annotations

import re

import click


@click.group()
def ledger() -> None:
    """Gaps in the machines' sequences: see them, and close those that nobody will ever fill."""


@ledger.command()
@click.option("--line", help="only this line: path, e.g. nanjing/cells/32140-1")
@click.option("--closed", is_flag=True, help="those that were closed by hand, and why")
def gaps(line: str | None, closed: bool) -> None:
    """List what is missing, by machine and boot."""
    from mes import present, settings
    from mes.store import gaps as store
    from mes.store.connection import connect

    rows: list[tuple[object, ...]]
    with connect(settings.database_url(), application="mes ledger") as connection:
        if closed:
            head: tuple[str, ...] = ("machine", "boot", "closed", "why", "by", "at")
            rows = [(c.machine, c.boot, c.seqs, c.why, c.by, f"{c.at:%Y-%m-%d %H:%M:%S}Z") for c in store.closings(connection, line)]
        else:
            head = ("machine", "boot", "first", "last", "missing")
            rows = [(g.machine, g.boot, g.first, g.last, g.last - g.first + 1) for g in store.gaps(connection, line)]
    if rows:
        present.print_table(head, rows)
    else:
        click.echo("no gap was closed by hand" if closed else "nothing is missing", err=True)


class _Range(click.ParamType[tuple[int, int]]):
    name = "first-last"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last < 2**63 - 1:
            self.fail(f"{value!r} is not a sequence number or a range such as 17-23", param, ctx)
        return first, last


@ledger.command()
@click.argument("machine")
@click.argument("seqs", type=_Range())
@click.option("--boot", required=True, type=int, help="the machine's restart count")
@click.option("--why", required=True, help="kept with your database user and the time")
def close(machine: str, seqs: tuple[int, int], boot: int, why: str) -> None:
    """Close a gap that MACHINE (its path, e.g. nanjing/cells/32140-1/wnd/03) will never fill: SEQS is 17 or 17-23.

    Its committed mark passes the gap within a second or two. Should an event of it turn up all the same, it is stored.
    """
    from mes import settings
    from mes.errors import ConfigError
    from mes.store import gaps as store
    from mes.store.connection import connect

    if not why.strip():
        raise ConfigError("--why is empty: say why these will never come")
    with connect(settings.database_url(), application="mes ledger") as connection:
        n = store.close(connection, machine, boot, *seqs, why.strip())
    click.echo(f"closed {n} of machine {machine}, boot {boot}")


@ledger.command()
@click.option("--line", "path", help="only this line: path, e.g. nanjing/cells/32140-1")
@click.option("--close", "closing", is_flag=True, help="give it up: nobody waits for it any more")
@click.option("--why", default="", help="with --close: kept with your database user and the time")
def lost(path: str | None, closing: bool, why: str) -> None:
    """List what machines were told is committed and the database does not hold: it was set back to an older point.

    The marks of these machines stand still until it is put back (deploy/backup/README.md) or given up. Asks the broker.
    """
    import asyncio

    from mes import present, settings
    from mes.errors import ConfigError
    from mes.ledger import Promise
    from mes.promises import promises
    from mes.store import gaps as store
    from mes.store.connection import connect
    from mes.store.events import Writer, active_lines, unkept

    if closing and not why.strip():
        raise ConfigError("--why is missing: say why these are given up")
    url, broker = settings.database_url(), settings.broker_url()
    known = active_lines(url)[1]
    lines = [line for line in known if path in (None, line.path)]
    if path and not lines:
        raise ConfigError(f"line {path!r} is unknown: use one of {', '.join(line.path for line in known)}")
    rows: list[tuple[object, ...]] = []
    given_up = 0
    with connect(url, application="mes ledger") as connection:
        for line in lines:
            writer = Writer(connection, line, url)
            promised = asyncio.run(promises(broker, line, writer.equipment(), writer.database()))
            for one in unkept(connection, promised.made):
                rows.append((f"{line.path}/{promised.names[one.machine_id]}", str(one.boot), one.seq, one.holds))
                if closing:
                    given_up += store.give_up(connection, Promise(one.machine_id, one.boot, one.seq), why.strip())
    if not rows:
        click.echo("nothing is lost: the database holds all that its machines were told is committed", err=True)
    elif closing:
        click.echo(f"closed {given_up} of {len(rows)} machines")
    else:
        present.print_table(("machine", "boot", "told", "holds without a gap"), rows)
