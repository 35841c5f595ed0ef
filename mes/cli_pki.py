"""`mes pki`: certificates for a trial plant, and who may say what at its broker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

_out = click.option(
    "--out", envvar="MES_PKI_OUT", show_envvar=True, type=click.Path(path_type=Path, file_okay=False), help="folder of the certificates"
)


@click.group(invoke_without_command=True)
@_out
@click.option("--seeds", envvar="MES_SEEDS", show_envvar=True, type=click.Path(path_type=Path), help="folder that describes the plants")
@click.option(
    "--host",
    "hosts",
    show_envvar=True,
    multiple=True,
    default=("localhost", "127.0.0.1"),
    help="name or address of broker and database; may be repeated",
)
@click.option(
    "--dashboard",
    "dashboards",
    show_envvar=True,
    multiple=True,
    default=("dashboard",),
    help="name of a reader of figures; may be repeated",
)
@click.option("--days", show_envvar=True, default=730, type=click.IntRange(1, 3650), help="how long certificates are valid")
@click.option("--renew-before", show_envvar=True, default=30, type=click.IntRange(0, 3650), help="renew those that end within so many days")
@click.option(
    "--acl", show_envvar=True, type=click.Path(path_type=Path, dir_okay=False), help="also write Mosquitto's access list to this file"
)
@click.pass_context
def pki(ctx: click.Context, /, out: Path | None, acl: Path | None, seeds: Path | None, **given: Any) -> None:
    """Make the certificates of a plant: broker, database, backend, dashboards, and one for each line and machine.

    What is there already is kept: run it again after the plant has changed.
    """
    ctx.obj = out
    if ctx.invoked_subcommand:
        return
    from mes import pki as run
    from mes import present, settings
    from mes.acl import access_list
    from mes.authority import write
    from mes.seeds import load_plant

    folder = _folder(ctx, out)
    plant = load_plant(seeds or settings.seeds())
    wanted = run.wanted(plant, given["hosts"], given["dashboards"])
    done = run.make(folder, wanted, days=given["days"], renew_before=given["renew_before"])
    rows = []
    for group in dict.fromkeys(_group(one.place) for one in done):
        mine = [one for one in done if _group(one.place) == group]
        count = Counter(one.what for one in mine)
        until = min(one.until for one in mine)
        rows.append((group, count["made"], count["renewed"], count["kept"], f"{until:%Y-%m-%d}"))
    present.print_table(("certificates", "made", "renewed", "kept", "valid until"), rows)
    click.echo(f"in {folder}; keys are for their owner only, those of ca/ belong on no server")
    if acl is not None:
        readers = [one.name for one in run.listing(folder) if one.place.startswith("dashboards/")]
        write(acl, access_list(plant, readers).encode())
        click.echo(f"access list in {acl}")


@pki.command("list")
@_out
@click.pass_context
def list_certificates(ctx: click.Context, out: Path | None) -> None:
    """Show the certificates in use and how long they are valid."""
    from mes import pki as run
    from mes import present
    from mes.authority import now

    rows = [
        (one.place, one.name, f"{one.until:%Y-%m-%d}", (one.until - now()).days, "here" if one.has_key else "elsewhere")
        for one in run.listing(_folder(ctx, out))
    ]
    present.print_table(("certificate", "name", "valid until", "days", "key"), rows)


@pki.command()
@click.argument("certificate")
@_out
@click.pass_context
def revoke(ctx: click.Context, certificate: str, out: Path | None) -> None:
    """Take CERTIFICATE (as `mes pki list` names it) out of use: a key that was lost or stolen.

    Give the broker the new list of the authority, and SIGHUP; a connection that is open ends when the broker is restarted.
    Run `mes pki` for another certificate with a new key.
    """
    from mes import pki as run

    folder = _folder(ctx, out)
    n = run.revoke(folder, certificate)
    signer = "backend" if certificate == run.BACKEND else "plant"
    click.echo(f"revoked {n} of {certificate}: give the broker {folder}/ca/{signer}.crl and SIGHUP; `mes pki` makes another")


def _folder(ctx: click.Context, out: Path | None) -> Path:
    from mes.errors import ConfigError

    given = out or ctx.find_object(Path)
    if given is None:
        raise ConfigError("--out is not given: name the folder of the certificates, or set MES_PKI_OUT")
    return given


def _group(place: str) -> str:
    kind, _, rest = place.partition("/")
    return place if kind != "machines" else f"machines/{'/'.join(rest.split('/')[:3])}/*"
