"""Debian 13's PostgreSQL 17 with TimescaleDB 2.19 (Apache edition), unpacked beside whatever the machine runs: no root, no install.

The packages come with the machine's own apt client from the machine's own mirror, once, into a cache outside the checkout.
They need a newer C library than the machine may have, so the programs start under the unpacked one.
`python -m tests.timescaledb` unpacks it where that was not done yet and prints where it is, or says why it cannot be.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from tests.servers import postgres_server

SUITE: Final = "trixie"
# The server and what its programs are linked with. LLVM (jit), perl and locales are left out: the server starts without them.
PACKAGES: Final = (
    "postgresql-17", "postgresql-17-timescaledb", "libpq5", "libc6", "libgcc-s1", "libstdc++6", "libicu76", "liblz4-1", "libzstd1",
    "zlib1g", "liblzma5", "libxml2", "libxxhash0", "libssl3t64", "libpam0g", "libaudit1", "libcap-ng0", "libcap2", "libsystemd0",
    "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libcom-err2", "libkeyutils1", "libldap2", "libsasl2-2",
)  # fmt: skip
# Background workers would hold on to databases that are to be cloned.
SETTINGS: Final = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "0",
    "jit": "off",
}


class Machine(NamedTuple):
    """Where Debian puts libraries for this kind of processor, and how the loader is called."""

    libraries: str
    loader: str


MACHINES: Final = {
    "x86_64": Machine("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "aarch64": Machine("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),  # by the names of Debian's packages; never run
}
_BIN: Final = "usr/lib/postgresql/17/bin"
# The kernel names a process by the file that was started, and the supervisor knows its servers by that name:
# so the loader is started by a link that has the name of the program.
_WRAPPER: Final = """#!/bin/sh
exec "${{0%/*}}/loader/{name}" --inhibit-cache --library-path "${{0%/bin/*}}/../../{libraries}" --argv0 "$0" "$0.real" "$@"
"""


class Missing(Exception):
    """It cannot be had here; says why."""


def place() -> Path:
    """Where it is unpacked. As root a folder that the server's user can read, which root's home is not."""
    base = os.environ.get("XDG_CACHE_HOME") or ("/var/cache" if os.getuid() == 0 else str(Path.home() / ".cache"))
    recipe = hashlib.sha256(repr((PACKAGES, _WRAPPER)).encode()).hexdigest()[:8]
    return Path(base) / "mes" / f"timescaledb-{SUITE}-17-{recipe}"


@cache
def programs() -> Path:
    """The folder with `postgres` and `initdb`, downloaded (50 MB) at the first call; Missing says why it cannot be."""
    folder = place()
    if not folder.exists():
        machine = MACHINES.get(platform.machine())
        if machine is None or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Missing(f"it is unpacked from Debian's packages, which needs apt-get and dpkg-deb on {' or '.join(MACHINES)}")
        try:
            folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with open(folder.parent / "unpacking", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits and finds it done
                if not folder.exists():
                    _unpack_into(folder, machine)
        except OSError as why:
            raise Missing(f"{why.filename or folder.parent}: {why.strerror}: set XDG_CACHE_HOME to a folder that may be written") from why
    if os.getuid() == 0 and (closed := [f for f in folder.parents if not f.stat().st_mode & 0o001]):
        raise Missing(f"{closed[-1]}: only root may go in, and PostgreSQL does not run as root: set XDG_CACHE_HOME to an open folder")
    return folder / _BIN


def edition(folder: Path) -> str:
    """What is in this folder of programs, such as "PostgreSQL 17.5 with TimescaleDB 2.19.3 (Apache edition)"."""
    server = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    control = (folder.parents[3] / "share/postgresql/17/extension/timescaledb.control").read_text()
    version = re.search(r"^default_version = '(.*)'", control, re.MULTILINE)
    community = any((folder.parent / "lib").glob("timescaledb-tsl-*"))
    return f"PostgreSQL {server} with TimescaleDB {version and version[1]} ({'Community' if community else 'Apache'} edition)"


def _unpack_into(folder: Path, machine: Machine) -> None:
    """All of it or nothing; the caller holds the lock."""
    for interrupted in folder.parent.glob("unpack-*"):
        shutil.rmtree(interrupted, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=folder.parent) as scratch:
        _unpack(Path(scratch), machine)
        (Path(scratch) / "root").rename(folder)


def _unpack(scratch: Path, machine: Machine) -> None:
    """The packages into scratch/root, ready to run from wherever that is moved."""
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
    (root / _BIN / "loader").mkdir(mode=0o755)
    for name in ("postgres", "initdb"):
        program = root / _BIN / name
        program.rename(program.with_name(f"{name}.real"))
        (program.parent / "loader" / name).symlink_to(f"../../../../{machine.libraries}/{machine.loader}")
        program.write_text(_WRAPPER.format(name=name, libraries=machine.libraries))
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
    raise Missing(f"it comes from a Debian mirror, and this machine's apt has none for {name or 'this system'}")


def _run(command: list[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired as why:
        raise Missing(f"{command[0]} took more than ten minutes (is the Debian mirror reached?)") from why
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line for line in said if "Failed to fetch" in line), said[-1])
        raise Missing(f"{reason[:300]} (is the Debian mirror reached?)")
    return done.stdout


@contextlib.contextmanager
def timescaledb(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """A fresh server whose databases all have the extension; yields the URL of a superuser."""
    with postgres_server(programs(), {**SETTINGS, **(settings or {})}) as url:
        for database in ("template1", "postgres"):
            with psycopg.connect(url.replace("/postgres", f"/{database}"), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION timescaledb")
        yield url


if __name__ == "__main__":
    try:
        print(f"{edition(programs())} in {place()}")
    except Missing as why:
        sys.exit(f"TimescaleDB for tests is not to be had: {why}")
