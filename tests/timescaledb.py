"""Debian 13's PostgreSQL 17 with TimescaleDB 2.19 (Apache edition), unpacked beside whatever the machine runs: no root, no install.

The packages come with the machine's own apt client from the machine's own mirror, once, into a cache outside the checkout.
They need a newer C library than the machine may have, so the programs start under the unpacked one.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg

from tests.servers import postgres_server

SUITE: Final = "trixie"
# The server and what its programs are linked with. LLVM (jit), perl and locales are left out: the server starts without them.
PACKAGES: Final = (
    "postgresql-17", "postgresql-17-timescaledb", "libpq5", "libc6", "libgcc-s1", "libstdc++6", "libicu76", "liblz4-1", "libzstd1",
    "zlib1g", "liblzma5", "libxml2", "libxxhash0", "libssl3t64", "libpam0g", "libaudit1", "libcap-ng0", "libcap2", "libsystemd0",
    "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libcom-err2", "libkeyutils1", "libldap2", "libsasl2-2",
)  # fmt: skip
# Background workers would hold on to template databases; the Apache edition has no jobs for them.
SETTINGS: Final = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "0",
    "jit": "off",
}
_WRAPPER: Final = """#!/bin/sh
exec {lib}/ld-linux-x86-64.so.2 --inhibit-cache --library-path {lib} --argv0 {program} {program}.real "$@"
"""


class Missing(Exception):
    """It cannot be had here; says why."""


def cache() -> Path:
    """Where it is unpacked. As root a folder that the server's user can read, which root's home is not."""
    base = os.environ.get("XDG_CACHE_HOME") or ("/var/cache" if os.getuid() == 0 else str(Path.home() / ".cache"))
    return Path(base) / "mes" / f"timescaledb-{SUITE}-17"


def programs() -> Path:
    """The folder with `postgres` and `initdb`, downloaded (50 MB) at the first call; Missing says why it cannot be."""
    place = cache()
    if not place.exists():
        if platform.machine() != "x86_64" or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Missing("TimescaleDB for tests is unpacked from Debian's packages: that needs apt and amd64")
        try:
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="unpack-", dir=place.parent) as scratch:
                _unpack(Path(scratch), place)
                with contextlib.suppress(OSError):  # another process was first
                    (Path(scratch) / "root").rename(place)
        except OSError as why:
            raise Missing(f"{why.filename or place.parent}: {why.strerror}: set XDG_CACHE_HOME to a folder that may be written") from why
    return place / "usr/lib/postgresql/17/bin"


def _unpack(scratch: Path, place: Path) -> None:
    """The packages into scratch/root, ready to run once that is `place`."""
    deb, root = scratch / "deb", scratch / "root"
    for folder in (scratch / "lists/partial", scratch / "cache/archives/partial", deb, root):
        folder.mkdir(mode=0o755, parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb {_mirror()} {SUITE} main\n")
    apt = [
        "apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={scratch}/sources.list", "-o", "Dir::Etc::sourceparts=-",
        "-o", "Dir::Etc::preferencesparts=-", "-o", f"Dir::State={scratch}", "-o", f"Dir::State::status={scratch}/status",
        "-o", f"Dir::Cache={scratch}/cache", "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=",
    ]  # fmt: skip
    _run([*apt, "update", "--error-on=any"], deb)
    _run([*apt, "download", *PACKAGES], deb)
    for package in sorted(deb.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)], deb)
    lib = "usr/lib/x86_64-linux-gnu"
    for name in ("postgres", "initdb"):
        program = root / "usr/lib/postgresql/17/bin" / name
        program.rename(program.with_name(f"{name}.real"))
        program.write_text(_WRAPPER.format(lib=place / lib, program=place / program.relative_to(root)))
        program.chmod(0o755)
    for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/postgresql/17/lib/bitcode"):
        shutil.rmtree(root / unused, ignore_errors=True)
    root.chmod(0o755)


def _mirror() -> str:
    """The Debian mirror that this machine's apt is set up with, with the key it trusts."""
    with open("/etc/os-release") as file:
        release = dict(line.rstrip().partition("=")[::2] for line in file if "=" in line)
    name = release.get("VERSION_CODENAME", "").strip('"')
    found = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Identifier: Packages"])
    for uri, suite in (line.split() for line in found.splitlines() if line.count(" ") == 1):
        if suite == name and release.get("ID") == "debian":
            return f"[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri}"
    raise Missing(f"TimescaleDB for tests comes from a Debian mirror: this machine's apt has none for {name or 'this system'}")


def _run(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(f"TimescaleDB for tests was not to be had: {said[-1][:300]} (is the Debian mirror reached?)")
    return done.stdout


@contextlib.contextmanager
def timescaledb(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """A fresh server whose databases all have the extension; yields the URL of a superuser."""
    with postgres_server(programs(), {**SETTINGS, **(settings or {})}) as url:
        for database in ("template1", "postgres"):
            with psycopg.connect(url.replace("/postgres", f"/{database}"), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION timescaledb")
        yield url
