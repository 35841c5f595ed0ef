"""TLS: what the servers show, and what we show them; how long it is valid. Nothing is trusted here, it is only looked at."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from mes import probe
from mes.doctor.finding import Finding, Level
from mes.tls import CA, CERT

WARN_DAYS: Final = 30
PROBLEM_DAYS: Final = 7

_SSL_REQUEST: Final = struct.pack(">II", 8, 80877103)
_HANDSHAKE_S: Final = 5.0
_FILES: Final = {CA: "authority", CERT: "client"}
_IN_URL: Final = {"sslrootcert": "authority", "sslcert": "client"}


def of_broker(url: str) -> Iterator[Finding]:
    """The broker's certificate."""
    try:
        shown = probe.certificate(url)
    except OSError as why:
        cure = "see that this port speaks TLS, and what the broker's log says"
        yield Finding("tls.broker", Level.PROBLEM, f"the broker shows no certificate: {why}", cure)
        return
    if shown is None:
        yield _open("tls.broker", "the broker", urlsplit(url).hostname or "", "mqtts:// and a listener with TLS (deploy/mosquitto)")
        return
    yield _validity("tls.broker", shown, "the broker's certificate")


def of_database(url: str, host: str, port: int) -> Iterator[Finding]:
    """The database's certificate: the server is asked for TLS as libpq would."""
    if host.startswith(("/", "@")) or not host:
        yield Finding("tls.database", Level.OK, "the connection does not leave this machine: a socket in the file system")
        return
    try:
        with socket.create_connection((host, port), _HANDSHAKE_S) as link:
            link.sendall(_SSL_REQUEST)
            answer = link.recv(1)
            if answer != b"S":
                yield _open("tls.database", "the database", host, "ssl = on at the server, and sslmode=verify-full in the URL")
                return
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(link, server_hostname=host) as tls:
                shown = tls.getpeercert(binary_form=True) or b""
    except OSError as why:
        yield Finding("tls.database", Level.PROBLEM, f"the database shows no certificate: {why}", "see what the server's log says")
        return
    yield _validity("tls.database", shown, "the database's certificate")
    mode = parse_qs(urlsplit(url).query).get("sslmode", [os.environ.get("PGSSLMODE", "prefer")])[0]
    if not mode.startswith("verify") and not is_here(host):
        cure = "say sslmode=verify-full and sslrootcert=FILE in MES_DATABASE_URL"
        yield Finding("tls.database", Level.WARNING, f"sslmode={mode}: anybody between here and {host} could be the database", cure)


def of_files(database: str, broker: str) -> Iterator[Finding]:
    """Certificates that we hold: our own, and those of the authorities that we trust."""
    asked = {name: os.environ.get(name, "") for name in _FILES} if broker.startswith("mqtts") else {}
    query = parse_qs(urlsplit(database).query)
    asked |= {name: query.get(name, [""])[0] for name in _IN_URL}
    for name, path in asked.items():
        if path and path != "system":
            yield from _file(f"tls.{(_FILES | _IN_URL)[name]}", name, Path(path))


def _file(check: str, name: str, path: Path) -> Iterator[Finding]:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else "no certificate in PEM form"
        yield Finding(
            check, Level.PROBLEM, f"{name}={path}: {reason}", "give a file that holds the certificate, readable for this user", name
        )
        return
    for certificate in found:
        yield _days(check, certificate.not_valid_before_utc, certificate.not_valid_after_utc, f"{name}={path}", name)


def _validity(check: str, der: bytes, what: str) -> Finding:
    from cryptography import x509

    shown = x509.load_der_x509_certificate(der)
    return _days(check, shown.not_valid_before_utc, shown.not_valid_after_utc, what)


def _days(check: str, begin: dt.datetime, end: dt.datetime, what: str, about: str = "") -> Finding:
    now = dt.datetime.now(dt.UTC)
    left = (end - now) / dt.timedelta(days=1)
    cure = "renew it, and reload who uses it (`mes pki` renews those of a trial plant)"
    if begin > now:
        return Finding(
            check, Level.PROBLEM, f"{what} is valid only from {begin:%Y-%m-%d %H:%M}Z on", "set the clock of this machine", about
        )
    if left <= 0:
        return Finding(check, Level.PROBLEM, f"{what} expired on {end:%Y-%m-%d %H:%M}Z", cure, about)
    level = Level.PROBLEM if left < PROBLEM_DAYS else Level.WARNING if left < WARN_DAYS else Level.OK
    return Finding(check, level, f"{what} is valid for {left:.0f} days, until {end:%Y-%m-%d}", "" if level is Level.OK else cure, about)


def _open(check: str, what: str, host: str, cure: str) -> Finding:
    if is_here(host):
        return Finding(check, Level.OK, f"{what} is on this machine, not encrypted")
    return Finding(
        check, Level.WARNING, f"the connection to {what} at {host} is not encrypted: it can be read and changed on its way", cure
    )


def is_here(host: str) -> bool:
    """Whether a host is this machine, by its loopback address."""
    return host in ("localhost", "::1", "") or host.startswith(("127.", "/"))
