"""Certificates of a trial plant: what its parts need, as PEM files in a folder.

    ca/plant.crt, .key, .crl        signs servers, machines, gateways and dashboards; everyone trusts it
    ca/backend.crt, .key, .crl      signs the backend's certificate and nothing else, for a listener that takes nobody else
    server/broker.crt, .key         and server/postgresql: for the hosts that are given
    backend.crt, .key               ingest, rollup, doctor
    dashboards/NAME.crt, .key
    gateways/SITE/AREA/LINE.crt, .key                       speaks for all machines of a line
    machines/SITE/AREA/LINE/STATION/MACHINE.crt, .key       its name is its topic path
    issued/SERIAL.crt, revoked/     every certificate that was ever issued; what was taken out of use

Renewing signs the same key anew and does not need it: a key may be moved to its machine.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from mes import authority as ca
from mes.authority import Authority
from mes.errors import ConfigError
from mes.plant import Plant

BACKEND: Final = "backend"
LONGEST_NAME: Final = 64
"""Characters that X.520 allows in a common name."""

_SIGNERS: Final = ("plant", BACKEND)
_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_DASHBOARD: Final = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True)
class Wanted:
    """A certificate that there shall be: where below the folder, without ending; its name; who signs it. Servers have hosts."""

    place: str
    name: str
    signer: str = "plant"
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What became of one."""

    place: str
    what: Literal["made", "renewed", "kept"]
    until: dt.datetime


@dataclass(frozen=True)
class Listed:
    """A certificate in use; `has_key`: its private key is beside it."""

    place: str
    name: str
    until: dt.datetime
    has_key: bool


def wanted(plant: Plant, hosts: Sequence[str], dashboards: Sequence[str]) -> list[Wanted]:
    """Every certificate of a plant; ConfigError when a name cannot stand in one."""
    for host in hosts:
        if not (ca.is_address(host) or _HOST.fullmatch(host)):
            raise ConfigError(f"--host {host!r} is neither a host name nor an address: correct it")
    for name in dashboards:
        if not _DASHBOARD.fullmatch(name) or name == BACKEND:
            raise ConfigError(f"--dashboard {name!r}: use 1 to 40 of a-z, 0-9 and -, and not {BACKEND!r}")
    found = [Wanted(f"server/{name}", f"mes {name}", hosts=tuple(hosts)) for name in ("broker", "postgresql")]
    found.append(Wanted("backend", BACKEND, signer=BACKEND))
    found += [Wanted(f"dashboards/{name}", name) for name in dashboards]
    for path in sorted(plant.lines):
        found.append(Wanted(f"gateways/{path}", path))
        found += [Wanted(f"machines/{name}", name) for name in machines(plant, path)]
    for one in found:
        if len(one.name) > LONGEST_NAME:
            what = "machine" if one.place.startswith("machines/") else "line"
            raise ConfigError(
                f"{what} {one.name}: its path has {len(one.name)} characters, and the name in a certificate at most {LONGEST_NAME}"
                " (X.520): shorten the codes in seeds"
            )
    return found


def machines(plant: Plant, line: str) -> list[str]:
    """The topic paths of a line's machines."""
    return [f"{line}/{station.code}/{code}" for station in plant.lines[line].station for code in station.machine_codes]


def make(folder: Path, certificates: Iterable[Wanted], *, days: int, renew_before: int) -> list[Done]:
    """Make what is not there, renew what ends within `renew_before` days or lacks a host; nothing else is touched."""
    signers = {name: Authority(folder, name) for name in _SIGNERS}
    done: list[Done] = []
    for signer in signers.values():
        made = signer.open()
        done.append(Done(signer.place, "made" if made else "kept", signer.certificate.not_valid_after_utc))
    return done + [_make(folder, one, signers[one.signer], days, renew_before) for one in certificates]


def _make(folder: Path, one: Wanted, signer: Authority, days: int, renew_before: int) -> Done:
    path = folder / f"{one.place}.crt"
    hosts = one.hosts
    what: Literal["made", "renewed"] = "made"
    if path.exists():
        there = ca.read(path)
        hosts = (*ca.hosts_of(there), *(host for host in hosts if host not in ca.hosts_of(there)))
        until = there.not_valid_after_utc
        if hosts == ca.hosts_of(there) and until > ca.now() + dt.timedelta(days=renew_before):
            return Done(one.place, "kept", until)
        public, what = there.public_key(), "renewed"
        assert isinstance(public, ec.EllipticCurvePublicKey)
    else:
        public = ca.key_in(path.with_suffix(".key")).public_key()
    made = signer.issue(one.name, public, hosts, days)
    ca.write(path, ca.pem(made))
    return Done(one.place, what, made.not_valid_after_utc)


def revoke(folder: Path, place: str) -> int:
    """Take a certificate out of use: it and all earlier ones of its key go on the list of their authority, and it is moved away,
    so that the next `make` makes another, with a new key. Returns how many were revoked."""
    path = folder / f"{place}.crt"
    if place not in {one.place for one in listing(folder)} or place.startswith("ca/"):
        raise ConfigError(
            f"{place} is no certificate in {folder}: name one as `mes pki list` does, e.g. machines/SITE/AREA/LINE/STATION/01"
        )
    one = ca.read(path)
    same = [other for other in map(ca.read, (folder / "issued").glob("*.crt")) if other.public_key() == one.public_key()]
    signer = next(signer for signer in (Authority(folder, name) for name in _SIGNERS) if signer.certificate.subject == one.issuer)
    serials = {one.serial_number, *(other.serial_number for other in same)}
    signer.revoke(serials)
    away = folder / "revoked" / f"{one.serial_number:x}.crt"
    away.parent.mkdir(exist_ok=True)
    for suffix in (".key", ".crt"):
        if path.with_suffix(suffix).exists():
            path.with_suffix(suffix).replace(away.with_suffix(suffix))
    return len(serials)


def listing(folder: Path) -> list[Listed]:
    """All certificates in use, authorities first; ConfigError where there are none."""
    order = ("ca", "server", "backend.crt", "dashboards", "gateways", "machines")
    paths = [path for name in order for path in ([folder / name] if name.endswith(".crt") else sorted((folder / name).rglob("*.crt")))]
    found = [(path, ca.read(path)) for path in paths if path.exists()]
    if not found:
        raise ConfigError(f"{folder} holds no certificates: make them with `mes pki --out {folder}`")
    return [
        Listed(str(path.relative_to(folder).with_suffix("")), ca.name_of(one), one.not_valid_after_utc, path.with_suffix(".key").exists())
        for path, one in found
    ]
