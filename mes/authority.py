"""A certificate authority of a trial plant in a folder: its key, what it has issued, and what it has revoked.

Keys are made once, readable by their owner only, and never written again. A revocation list is valid as long as its
authority: one that runs out would shut everyone out. An authority is not limited to host names (name constraints),
since hosts are added later; each certificate is limited to its use instead, so that no machine can pose as the broker.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mes.errors import ConfigError

DAYS: Final = 3650
_EARLIER: Final = dt.timedelta(days=1)  # valid since: for machines whose clock is behind
_PEM: Final = serialization.Encoding.PEM


class Authority:
    """Signs for one purpose. Its files are FOLDER/ca/NAME.crt, .key and .crl; all that it issues is in FOLDER/issued as well."""

    def __init__(self, folder: Path, name: str) -> None:
        self.place = f"ca/{name}"
        self._folder = folder
        self._at = folder / "ca" / name
        self._called = common_name(f"mes trial {name} authority")

    @property
    def certificate(self) -> x509.Certificate:
        return read(self._at.with_suffix(".crt"))

    def open(self) -> bool:
        """Make key, certificate and an empty list, unless they are there; whether they were made. ConfigError when it has expired."""
        path = self._at.with_suffix(".crt")
        if path.exists():
            until = self.certificate.not_valid_after_utc
            if until <= now():
                raise ConfigError(f"{path} has expired on {until:%Y-%m-%d}: begin with a new folder")
            return False
        key = key_in(self._at.with_suffix(".key"))
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            _begun(self._called, self._called, key.public_key(), now() + dt.timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(own, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        )
        write(path, pem(builder.sign(key, hashes.SHA256())))
        self.revoke(())
        return True

    def issue(self, name: str, public: ec.EllipticCurvePublicKey, hosts: Sequence[str], days: int) -> x509.Certificate:
        """A certificate for a server on these hosts, or without any for a client. It does not outlive the authority."""
        authority = self.certificate
        until = min(now() + dt.timedelta(days=days), authority.not_valid_after_utc)
        use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _begun(common_name(name), authority.subject, public, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_signed_by(authority), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        made = builder.sign(self._key(), hashes.SHA256())
        write(self._folder / "issued" / f"{made.serial_number:x}.crt", pem(made))
        return made

    def revoke(self, serials: Iterable[int]) -> None:
        """Write the list anew: what is on it, and these."""
        path, authority, at = self._at.with_suffix(".crl"), self.certificate, now()
        before = list(x509.load_pem_x509_crl(path.read_bytes())) if path.exists() else []
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(at - _EARLIER)
            .next_update(authority.not_valid_after_utc)
            .add_extension(_signed_by(authority), critical=False)
            .add_extension(x509.CRLNumber(int(at.timestamp()) * 1000 + len(before)), critical=False)
        )
        for known in before:
            builder = builder.add_revoked_certificate(known)
        for serial in sorted(set(serials) - {known.serial_number for known in before}):
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build())
        write(path, builder.sign(self._key(), hashes.SHA256()).public_bytes(_PEM))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        path = self._at.with_suffix(".key")
        if not path.exists():
            raise ConfigError(f"{path} is not there, and only it can sign: put it back")
        return key_in(path)


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def name_of(certificate: x509.Certificate) -> str:
    """Its common name."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(_PEM)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def key_in(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a file; made, for its owner only, where there is none."""
    try:
        if path.exists():
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ConfigError(f"{path}: not a key of an elliptic curve: move it away")
            return key
        key = ec.generate_private_key(ec.SECP256R1())
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return key
    except (ValueError, TypeError) as why:
        raise ConfigError(f"{path}: not a private key in PEM form that can be read: move it away") from why
    except OSError as why:
        raise _trouble(path, why) from why


def read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as why:
        raise ConfigError(f"{path}: not a certificate in PEM form: move it away") from why
    except OSError as why:
        raise _trouble(path, why) from why


def write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as why:
        raise _trouble(path, why) from why


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _begun(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, until: dt.datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now() - _EARLIER).not_valid_after(until)


def _signed_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*allowed: str) -> x509.KeyUsage:
    every = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    every += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{use: use in allowed for use in every})


def _host(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if is_address(host) else x509.DNSName(host)


def _trouble(path: Path, why: OSError) -> ConfigError:
    return ConfigError(f"{path}: {why.strerror}: give --out a folder that can be read and written")
