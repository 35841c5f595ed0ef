"""The real parts that tests run against: embedded ones, and Debian's PostgreSQL and Mosquitto as a plant has them.

Each is started by the test session on a free port and stopped by its own process id.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(what: str, package: str) -> None:
    """A part of Debian's that is not installed."""
    impossible(f"{what} is not installed: apt-get install {package}")


def impossible(reason: str) -> None:
    """What a test needs is not to be had on this machine: skipped, and said, where a person runs the tests; an error in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def shifted_clock(offset: str) -> dict[str, str]:
    """Variables for a process whose wall clock is off, by "+8s" or "-2h"; its monotonic clock is right."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        missing("faketime", "faketime")
    right = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": offset, **right}


def running_with(variable: str) -> list[str]:
    """Processes that have inherited NAME=value: their numbers and commands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{folder.name} {command[:200]}")
    return found


def wait_for(condition, seconds: float = 20.0, what: str = "condition"):  # type: ignore[no-untyped-def]
    """Poll until `condition()` is true and return its value; AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} not met within {seconds} s"
        time.sleep(0.05)
    return value


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
        return True
    return False


def of_its_own(url: str) -> str:
    """A database that was copied, as one that has nothing to do with the other; its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE mes.installation SET installation_id = gen_random_uuid()")
    return url


def _unprivileged() -> tuple[int, int] | None:
    """Whom PostgreSQL may run as: not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise AssertionError("no unprivileged user on this machine")


@contextlib.contextmanager
def stopped_at_the_end(process: subprocess.Popen[bytes], sig: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(sig)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def debian_programs() -> Path:
    """The folder of Debian's PostgreSQL programs, the newest there is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if not found:
        missing("PostgreSQL", "postgresql")
    return found[-1].parent


def debian_postgres(settings: Mapping[str, str] | None = None) -> contextlib.AbstractContextManager[str]:
    """Debian's PostgreSQL on a fresh cluster; yields the URL of a superuser."""
    return postgres_server(debian_programs(), settings or {})


def as_server() -> dict[str, Any]:
    """How a process is started as whom PostgreSQL may run as."""
    owner = _unprivileged()
    return {"user": owner[0], "group": owner[1], "extra_groups": []} if owner else {}


def given_to_server(path: Path) -> Path:
    """A file or folder, with all that is in it, that PostgreSQL may write."""
    if owner := _unprivileged():
        for each in (path, *path.rglob("*")):
            os.chown(each, *owner)
    return path


@contextlib.contextmanager
def postgres_server(programs: Path, settings: Mapping[str, str], data: Path | None = None) -> Iterator[str]:
    """The server among these programs, without fsync unless `settings` say so; yields the URL of a superuser.

    data  the folder of a cluster, which is copied  [default: a fresh one is made]
    """
    folder = Path(tempfile.mkdtemp(prefix="mes-pg-", dir="/tmp"))
    port = free_port()
    try:
        given_to_server(folder)
        if data:
            given_to_server(shutil.copytree(data, folder / "data")).chmod(0o700)
        else:
            subprocess.run(
                [programs / "initdb", "-D", folder / "data", "-U", "mes", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync"],
                check=True, capture_output=True, cwd="/", **as_server(),
            )  # fmt: skip
        every = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "shared_buffers": "64MB", "fsync": "off", **settings,
        }  # fmt: skip
        options = [word for name, value in every.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-p", str(port), *options],
                stdout=log, stderr=log, cwd="/", start_new_session=True, **as_server(),
            )  # fmt: skip
        with stopped_at_the_end(process, signal.SIGINT):
            url = f"postgresql://mes@127.0.0.1:{port}/postgres"
            wait_for(lambda: _answers(url), 60, "PostgreSQL")
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Mosquitto:
    """Debian's Mosquitto with the two settings without which it drops acked messages."""

    def __init__(self, folder: Path, extra: str = "", *, anonymous: bool = True) -> None:
        self.program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if self.program is None:
            missing("Mosquitto", "mosquitto")
        self.port = free_port()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        user = "root" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {str(anonymous).lower()}\nuser {user}\n"
            f"persistence true\npersistence_location {folder}/\n"
            f"max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n{extra}"
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self.program
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(lambda: accepts(self.port), what="Mosquitto")

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            with stopped_at_the_end(self.process):
                pass
