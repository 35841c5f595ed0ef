"""How a client of ours proves itself at a broker over TLS, and in plain words what came of it.

The backend and the simulators share this: a certificate is checked alike wherever it is used, and what the library says
about a handshake is said alike.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import ssl
from pathlib import Path
from typing import Final, NamedTuple

from mes.errors import ConfigError

CA, CERT, KEY = "MES_BROKER_CA", "MES_BROKER_CERT", "MES_BROKER_KEY"
_NO_PASSPHRASE: Final = "\0"

# What the alerts and errors of a handshake mean (ssl.SSLError.reason, without the prefix that names the version).
_MEANING: Final = {
    "ALERT_CERTIFICATE_REQUIRED": f"it wants a certificate: set {CERT} and {KEY}",
    "ALERT_HANDSHAKE_FAILURE": f"it does not agree to talk; most often it wants a certificate: set {CERT} and {KEY}",
    "ALERT_UNKNOWN_CA": f"it does not know the authority that signed {CERT}: take a certificate of its own authority",
    "ALERT_CERTIFICATE_EXPIRED": f"it says that {CERT} has expired: renew it",
    "ALERT_CERTIFICATE_REVOKED": f"it says that {CERT} is revoked: take another one",
    "ALERT_BAD_CERTIFICATE": f"it does not accept {CERT}: take another one",
    "ALERT_UNSUPPORTED_CERTIFICATE": f"{CERT} is not for clients: take a client's",
    "WRONG_VERSION_NUMBER": "this port does not speak TLS: use mqtt://, or the port that does",
}


class Credentials(NamedTuple):
    """Files in PEM form: whom we trust (`ca`; None: the system's authorities), and who we are (`cert` with its `key`)."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def of_environment(cls) -> Credentials:
        """MES_BROKER_CA, MES_BROKER_CERT and MES_BROKER_KEY, as far as they are set."""
        return cls(*(Path(text) if (text := os.environ.get(name)) else None for name in (CA, CERT, KEY)))

    def context(self, secure: bool) -> ssl.SSLContext | None:
        """What a connection needs, or None where it is not secure; ConfigError names the file that is wrong and what to do."""
        given = [f"{name}={path}" for name, path in zip((CA, CERT, KEY), self, strict=True) if path]
        if not secure:
            if given:
                raise ConfigError(f"{given[0]} is set, and mqtt:// would neither encrypt nor show it: use mqtts://, or unset it")
            return None
        if (self.cert is None) != (self.key is None):
            raise ConfigError(f"{given[-1]} is set alone: set both {CERT} and {KEY}")
        if self.ca is not None:
            _check(CA, self.ca, "the certificate of the authority that signed the broker's")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError as why:
            raise ConfigError(f"{CA}={self.ca}: {why}: give the authority's certificate in PEM form") from why
        if self.cert is not None and self.key is not None:
            _check(CERT, self.cert, "the certificate of this client", client=True)
            _load(context, self.cert, self.key)
        return context


def meaning(why: ssl.SSLError) -> str:
    """What a failed handshake says, and what to do."""
    if isinstance(why, ssl.SSLCertVerificationError):
        if "mismatch" in why.verify_message:
            return f"its certificate is for another host ({why.verify_message}): correct the URL, or have one made for this host"
        if "expired" in why.verify_message:
            return "its certificate has expired: renew it, or set the clock of this machine"
        return f"its certificate is not trusted ({why.verify_message}): set {CA} to the certificate of its authority"
    reason = (getattr(why, "reason", None) or "").replace(" ", "_").upper()
    return next(
        (text for name, text in _MEANING.items() if reason.endswith(name)), f"{why}: check the certificates, and that this port speaks TLS"
    )


def is_final(why: BaseException | None) -> bool:
    """Whether the broker has said no, which waiting cannot cure; a link that broke within TLS is no such thing."""
    return isinstance(why, ssl.SSLError) and not isinstance(why, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))


class Overheard(logging.Handler):
    """Keeps the last TLS error that a client library writes to its log. With TLS 1.3 a broker refuses a certificate after the
    handshake, and paho then says "connection lost" to its caller, and why to nobody but its log."""

    def __init__(self) -> None:
        super().__init__()
        self.error: ssl.SSLError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        self.error = next((arg for arg in args if isinstance(arg, ssl.SSLError) and is_final(arg)), self.error)


def _check(name: str, path: Path, what: str, client: bool = False) -> None:
    """That a file holds a certificate that is valid now."""
    from cryptography import x509  # takes a tenth of a second
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        found = x509.load_pem_x509_certificates(_read(name, path, what))
    except ValueError as why:
        raise ConfigError(f"{name}={path}: not a certificate in PEM form: give {what}") from why
    now = dt.datetime.now(dt.UTC)
    one = found[0] if client else max(found, key=lambda each: each.not_valid_after_utc)
    if one.not_valid_after_utc <= now:
        raise ConfigError(f"{name}={path}: expired on {one.not_valid_after_utc:%Y-%m-%d %H:%M}Z: renew it")
    if one.not_valid_before_utc > now:
        raise ConfigError(f"{name}={path}: valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M}Z on: check the clock of this machine")
    if client:
        try:
            uses = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return
        if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(uses):
            raise ConfigError(f"{name}={path}: this certificate is not for clients: give {what}")


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    _read(KEY, key, "the private key of this client")
    try:
        context.load_cert_chain(cert, key, password=lambda: _NO_PASSPHRASE)
    except ssl.SSLError as why:
        if why.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{KEY}={key}: is not the key of {CERT}={cert}: give the two that belong together") from why
        text = key.read_text("ascii", "replace")
        if "ENCRYPTED" in text:
            raise ConfigError(f"{KEY}={key}: is protected by a passphrase, and nobody is here to type it: give one without") from why
        raise ConfigError(f"{KEY}={key}: not a private key in PEM form: give the key of {CERT}={cert}") from why


def _read(name: str, path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as why:
        raise ConfigError(f"{name}={path}: there is no such file: give {what}") from why
    except OSError as why:
        raise ConfigError(f"{name}={path}: cannot be read ({why.strerror}): let this user read it") from why
