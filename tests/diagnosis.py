"""What `mes doctor` finds, for tests."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mes.doctor.examine import Scope, examine
from mes.doctor.finding import Check, Finding, Level, run
from mes.store.look import Look
from tests.conftest import SEEDS

NOWHERE = Path("/nonexistent")


def diagnose(database: str | None = None, broker: str | None = None, **more: Any) -> list[Finding]:
    """All that doctor finds; of servers that are not named, nothing."""
    found = examine(Scope(database, broker, more.pop("home", NOWHERE), more.pop("seeds", SEEDS), **more))
    assert not [finding for finding in found if finding.name.endswith(".fault")]
    return [finding for finding in found if "is not set" not in finding.found]


def check(database: str, *checks: Check[Any], wrap: Any = None) -> list[Finding]:
    """What single checks find in a database; `wrap` makes of the look what they take."""
    found: list[Finding] = []
    with contextlib.closing(Look(database)) as look:
        run({check.__name__: check for check in checks}, wrap(look) if wrap else look, found.append)
    return found


def levels(found: list[Finding], name: str) -> list[Level]:
    """The levels of what was found under a name, the worst first."""
    return sorted((finding.level for finding in found if finding.name == name), reverse=True)


def one(found: list[Finding], name: str, level: Level, about: str | None = None) -> Finding:
    """The only finding of this name and level."""
    fitting = [f for f in found if (f.name, f.level) == (name, level) and about in (None, f.about)]
    assert len(fitting) == 1, found
    if level > Level.OK:
        assert fitting[0].cure
    return fitting[0]


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextlib.contextmanager
def holding(database: str, *statements: str, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
    """A session that has done this and stays."""
    with psycopg.connect(database, autocommit=autocommit) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection


def certificate(folder: Path, name: str, days: float, begins: float = -400) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1 that ends in so many days, and its key, as PEM files."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=begins))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    certificate.chmod(0o644)
    private.chmod(0o644)
    return certificate, private
