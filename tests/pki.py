"""Certificates as `mes pki` makes them, and some that it would never make."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mes import authority, pki
from mes.authority import Authority
from mes.plant import Plant
from mes.seeds import load_plant
from mes.tls import Credentials

SEEDS = Path(__file__).resolve().parent.parent / "seeds"
LINE = "nanjing/cells/32140-1"
MACHINE = f"{LINE}/wnd/01"
OTHER = f"{LINE}/wnd/02"


def few(plant: Plant | None = None) -> list[pki.Wanted]:
    """What a plant (by default that of the seeds) needs, but of the machines only those of some stations."""
    every = pki.wanted(plant or load_plant(SEEDS), ["localhost", "127.0.0.1"], ["dashboard"])
    return [one for one in every if not one.place.startswith("machines/") or one.place.split("/")[4] in ("wnd", "asm", "pck", "grd")]


def made(folder: Path, plant: Plant | None = None) -> Path:
    pki.make(folder, few(plant), days=30, renew_before=0)
    return folder


def credentials(folder: Path, place: str | None, trust: Path | None = None) -> Credentials:
    """Those of a client; `trust`: the folder of the authority that it trusts, its own by default."""
    at = folder / place if place else None
    return Credentials((trust or folder) / "ca/plant.crt", at and at.with_name(f"{at.name}.crt"), at and at.with_name(f"{at.name}.key"))


def environment(files: Credentials) -> dict[str, str]:
    return {f"MES_BROKER_{name}": str(path) if path else "" for name, path in zip(("CA", "CERT", "KEY"), files, strict=True)}


def outdated(folder: Path, place: str, begin: dt.datetime, end: dt.datetime) -> None:
    """Put a certificate in place that is valid from `begin` to `end` only."""
    path = folder / f"{place}.crt"
    there = authority.read(path)
    signer = Authority(folder, "plant")
    public = there.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    builder = x509.CertificateBuilder(there.issuer, there.subject, public, x509.random_serial_number())
    for extension in there.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    one = builder.not_valid_before(begin).not_valid_after(end).sign(signer._key(), authority.hashes.SHA256())
    path.write_bytes(authority.pem(one))


def expired(folder: Path, place: str) -> None:
    now = dt.datetime.now(dt.UTC)
    outdated(folder, place, now - dt.timedelta(days=3), now - dt.timedelta(hours=1))
