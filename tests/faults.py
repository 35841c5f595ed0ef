"""A plant of its own for tests that kill its parts: database server, broker, workers, machines, and the account of it all."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg

from mes.embedded import process
from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests import account, fleet
from tests.pipeline import ROOT, environment
from tests.plants import small_lines
from tests.servers import Mosquitto, free_port, of_its_own, wait_for

PATIENCE_S = 180.0
"""Within which everything has to be well again on a busy machine."""

MEMORY_LIMIT = 300 << 20
"""What ingest may have, whatever happens; bytes."""


class Database(EmbeddedPostgres):
    """The embedded server with its own settings: what is committed is on disk."""

    def pids(self) -> list[int]:
        return process.leftovers(self.data, "postgres")

    def signal(self, sig: signal.Signals) -> None:
        """Signal the server and all its backends, which have a session each."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)

    def kill(self) -> None:
        """kill -9 of the server and all its backends."""
        self.signal(signal.SIGKILL)
        assert self._child
        self._child.wait()

    def shut_down(self) -> None:
        """A fast shutdown, as an administrator does it."""
        self.ask_stop()
        assert self._child
        self._child.wait(60)


class Nats(EmbeddedBroker):
    """The embedded broker."""

    def kill(self) -> None:
        assert self._child
        self._child.kill()
        self._child.wait()


Broker = Nats | Mosquitto


@contextlib.contextmanager
def broker(kind: str, folder: Path) -> Iterator[Broker]:
    with Mosquitto(folder) if kind == "mosquitto" else Nats(folder, free_port()) as started:
        yield started


class Fleet:
    """The machines, for one boot."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self._command = command
        self.start()

    def start(self) -> None:
        """Also after a kill: the machines go on with what is in their journals."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    @property
    def status(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            return dict(msgspec.json.decode((self.folder / "status.json").read_bytes()))
        return {}

    def has_sent(self, events: int) -> None:
        wait_for(lambda: self.status.get("published", 0) >= events, PATIENCE_S, f"{events} events made")

    def wait(self) -> None:
        """Until everything is committed, so far as the machines have been told."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as why:
            raise AssertionError(f"not everything is committed after {PATIENCE_S:.0f} s: {self.status}") from why
        assert code == 0, (self.folder / "log").read_text()


class Plant:
    """Workers around a database and a broker, which are the caller's, on two small lines with twelve machines each."""

    def __init__(self, folder: Path, database: str, broker_url: str, seeds: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = database
        self.broker = broker_url
        self.seeds = seeds
        self.topics = fleet.topics(load_plant(seeds))
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.fleets: list[Fleet] = []
        self.sent: dict[tuple[str, int], list[Any]] = {}
        self.poison: set[tuple[str, bytes]] = set()
        self.sound = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in (*self.workers.values(), *(f.process for f in self.fleets)):
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.terminate()
        for child in (*self.workers.values(), *(f.process for f in self.fleets)):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start(
        self, *names: str, database: str | None = None, broker: str | None = None, prefix: tuple[str, ...] = (), module: str = "mes"
    ) -> None:
        """Start workers, "ingest" or "rollup" and a word behind it; on other URLs, and by another command, where given."""
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.workers[name] = subprocess.Popen(
                    [*prefix, sys.executable, "-m", module, name.partition("-")[0]],
                    env=environment(database or self.database, broker or self.broker), stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip

    def kill(self, name: str) -> None:
        """kill -9."""
        self.workers[name].kill()
        self.workers[name].wait()

    def run_machines(
        self, events: int, rate: float, *, jumps: bool = False, broker: str | None = None, ahead: int = 8192, disk: Path | None = None
    ) -> Fleet:
        """All machines begin a boot and make so many events each, `rate` a second together.

        disk  where their journals are, instead of a folder of this boot
        """
        boot = 1000 + len(self.fleets)
        folder = (disk or self.folder) / f"boot-{boot}"
        folder.mkdir()
        names = self.folder / "topics.json"
        names.write_bytes(msgspec.json.encode(self.topics))
        words = {"topics": names, "boot": boot, "events": events, "rate": rate, "ahead": ahead}
        options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "tests.fleet", str(folder), broker or self.broker, *options, *(["--jumps"] if jumps else [])]
        self.fleets.append(Fleet(folder, command))
        for topic in self.topics:
            self.sent[topic, boot] = [fleet.cell(topic, boot, seq, jumps) for seq in range(1, events + 1)]
        return self.fleets[-1]

    def sessions_held(self) -> None:
        wait_for(lambda: self.ask("SELECT count(*) FROM mes.line_session") == 2, PATIENCE_S, "sessions")

    def ask(self, query: str) -> Any:
        """The only value of a query; None while the database is away."""
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.database, connect_timeout=2) as connection:
            row = connection.execute(query.encode()).fetchone()
            return row and row[0]

    def recovers(self) -> float:
        """Seconds until each line has committed something that it had not, or all that it will ever have."""
        began = time.monotonic()
        total = Counter(account.line_of(topic) for (topic, _), events in self.sent.items() for _ in events)
        count = "SELECT count(*) FROM mes.cell_event e WHERE e.line_id = l.line_id"
        query = f"SELECT jsonb_object_agg(path, ({count})) FROM mes.line l WHERE active"
        before = wait_for(lambda: self.ask(query), PATIENCE_S, "the database")

        def went_on() -> bool:
            now = self.ask(query)
            return now is not None and all(now[line] > before[line] or now[line] == n for line, n in total.items())

        wait_for(went_on, PATIENCE_S, "commits of both lines")
        return time.monotonic() - began

    def settle(self, acked: int = 0) -> account.Account:
        """Wait until all that was sent is committed and summed, and check the account.

        acked  events that others than the fleets have sent with success
        """
        self.sound = False
        for one in self.fleets:
            one.wait()
        wait_for(lambda: self.ask("SELECT count(*) FROM mes.dirty_bucket") == 0, PATIENCE_S, "everything summed")
        for name, worker in self.workers.items():
            log = (self.folder / f"{name}.log").read_text()
            assert worker.poll() is None, f"{name} ended with {worker.returncode}:\n{log[-2000:]}"
            assert "Traceback" not in log, f"{name}:\n{log[-4000:]}"
        found = account.check(self.database, self.sent, acked + sum(one.status["acked"] for one in self.fleets), self.poison)
        self.sound = True
        return found

    def memory(self, name: str) -> int:
        """Memory of a worker, bytes (Pss: shared pages by their share)."""
        text = Path(f"/proc/{self.workers[name].pid}/smaps_rollup").read_text()
        return int(text.partition("\nPss:")[2].split()[0]) * 1024


class Databases:
    """Fresh databases with the small lines on one server."""

    def __init__(self, server: Database, folder: Path) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self.seeds = small_lines(folder / "seeds", 100.0)
        migrate(server.url)
        seed(server.url, load_plant(self.seeds))

    def new(self) -> str:
        name = f"plant_{next(self._numbers)}"
        parts = urlsplit(self._server.url)
        with psycopg.connect(urlunsplit(parts._replace(path="/postgres")), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE mes".encode())
        return of_its_own(urlunsplit(parts._replace(path=f"/{name}")))


def through(url: str, port: int, host: str | None = None) -> str:
    """The URL by another port, such as that of a proxy before the server."""
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{userinfo}{'@' if userinfo else ''}{host or parts.hostname}:{port}"))


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port
