"""The whole backend on one machine: `mes up`, and what `mes demo` stands on.

`Stack` starts what is not given by URL (PostgreSQL, broker), brings schema and plant up to date, and keeps the services
running as children: one that dies is started again after a pause, one that says "configuration error" (exit code 2)
ends everything. It stops them in the order that loses no work: services first, then broker and database.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import click

from mes import logs, settings
from mes.embedded import process
from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
from mes.errors import ConfigError
from mes.plant import Plant
from mes.seeds import load_plant
from mes.tls import CA, CERT, KEY, Credentials

log = logging.getLogger(__name__)

BOARD_PORT: Final = 8787
_TICK_S: Final = 0.2
_PAUSE_S: Final = (0.5, 15.0)  # first and longest wait before a service is started again
_SOUND_S: Final = 30.0  # who has run so long has got over what ended it last time
_STOP_SERVICES_S: Final = 0.9
_STOP_SERVERS_S: Final = 0.7  # together with the services below the two seconds that a person waits


def announce(text: str) -> None:
    """Say something to the person at the terminal, at once; where logs are JSON, nobody sits there."""
    if logs.is_json():
        log.info("%s", text)
    else:
        click.echo(text)


@dataclass
class Service:
    """A child that is to run all the time, or with `once` to its end. `backend`: it uses the database."""

    name: str
    command: Sequence[str]
    log: Path
    once: bool = False
    backend: bool = False
    child: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    pause: float = _PAUSE_S[0]
    due: float = 0.0
    finished: bool = False


class Stack:
    """Database, broker and services for the length of a `with`.

    home                        folder of data and logs
    seeds                       folder that describes the plants
    database_url, broker_url    servers to use; None starts an embedded one under `home`
    board_port                  where the board listens on 127.0.0.1; None for no board
    metrics_port                where ingest serves its metrics, and rollup on the next one; None for none
    fresh_ports                 embedded parts take any free ports, never the ones that people know by heart
    """

    def __init__(
        self,
        home: Path,
        seeds: Path,
        *,
        database_url: str | None = None,
        broker_url: str | None = None,
        board_port: int | None = BOARD_PORT,
        metrics_port: int | None = None,
        fresh_ports: bool = False,
        say: process.Say = announce,
    ) -> None:
        self.home = home
        self.seeds = seeds
        self.plant: Plant = load_plant(seeds)
        self.database_url = database_url or ""
        self.broker_url = broker_url or ""
        self.board_port = board_port
        self.metrics_port = metrics_port
        self.say = say
        self.services: list[Service] = []
        self._fresh_ports = fresh_ports
        self._started_at = dt.datetime.now(dt.UTC)
        self._postgres: EmbeddedPostgres | None = None
        self._broker: EmbeddedBroker | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def embeds_database(self) -> bool:
        """Whether the database is a server of ours, whose password nobody else knows."""
        return self._postgres is not None

    @property
    def environment(self) -> dict[str, str]:
        """What children need to know, over our own environment; certificates are for a broker that was given, ours has none."""
        without = {"MES_METRICS_PORT", *((CA, CERT, KEY) if self._broker else ())}  # two children cannot have one port
        return {
            **{name: value for name, value in os.environ.items() if name not in without},
            "MES_DATABASE_URL": self.database_url,
            "MES_BROKER_URL": self.broker_url,
            "MES_HOME": str(self.home),
            "MES_SEEDS": str(self.seeds),
            "PYTHONUNBUFFERED": "1",
        }

    def add(self, name: str, *arguments: str, once: bool = False, backend: bool = False) -> Service:
        """Start `python -m ARGUMENTS` as a service whose output goes to logs/NAME.log."""
        service = Service(name, [sys.executable, "-m", *arguments], self.home / "logs" / f"{name}.log", once, backend)
        self.services.append(service)
        self._launch(service)
        return service

    def tend(self) -> None:
        """Start again what has died; ConfigError when a service says that it cannot work as configured."""
        for server, name in ((self._postgres, "PostgreSQL"), (self._broker, "the broker")):
            if server and not server.alive():
                self.say(f"{name} has ended: starting it again (log: {server.log})")
                server.start()
        now = time.monotonic()
        for service in self.services:
            if service.child is None:
                if not service.finished and now >= service.due:
                    self._launch(service)
                continue
            code = service.child.poll()
            if code is None:
                continue
            service.child = None
            last = logs.last_words((process.tail(service.log) or ["it said nothing"])[-1])
            if code == 2:
                raise ConfigError(f"{service.name}: {last.removeprefix('mes: ').removeprefix('linesim: ')} (log: {service.log})")
            if service.once and code == 0:
                service.finished = True
                continue
            service.pause = _PAUSE_S[0] if now - service.began > _SOUND_S else min(service.pause * 2, _PAUSE_S[1])
            service.due = now + service.pause
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self.say(f"{service.name} ended {how}: starting it again in {service.pause:.0f} s (log: {service.log})")

    def wait_for_sessions(self, within: float = 30.0) -> None:
        """Return when the broker keeps the session of every line, so that nothing published from then on has to be sent again.

        Going on without is no loss (machines keep what is not committed), so this gives up after a while.
        """
        from mes.store.events import lines_without_session

        deadline = time.monotonic() + within
        while time.monotonic() < deadline and lines_without_session(self.database_url, self._started_at):
            self.tend()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop everything within two seconds; nobody can hurry it by pressing Ctrl-C again."""
        with _undisturbed():
            running = [service for service in self.services if service.child]
            for service in running:
                _ask(service)
            deadline = time.monotonic() + _STOP_SERVICES_S
            writing_out = False
            while any(map(_runs, running)) and time.monotonic() < deadline:
                if self._postgres and not writing_out and not any(_runs(service) for service in running if service.backend):
                    self._postgres.ask_stop()  # simulators do not need it, and it takes a while
                    writing_out = True
                time.sleep(0.01)
            for service in running:
                _kill(service)
            for server in (self._broker, self._postgres):
                if server:
                    server.ask_stop()
            deadline = time.monotonic() + _STOP_SERVERS_S
            for server in (self._broker, self._postgres):
                if server:
                    server.stop(max(0.0, deadline - time.monotonic()))
            self._broker = self._postgres = None

    def _start(self) -> None:
        from mes.store.migrate import migrate
        from mes.store.seed import seed

        if self.board_port is not None and not process.is_free(self.board_port):
            who = process.listener(self.board_port)
            raise ConfigError(f"port {self.board_port} is taken by {who}: stop that, or give the board another one with --board-port")
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise process.unwritable(self.home, why) from why
        if not self.database_url:
            database = EmbeddedPostgres(self.home, process.free_port() if self._fresh_ports else None, say=self.say)
            self._postgres = database.__enter__()
            self.database_url = database.url
        if not self.broker_url:
            broker = EmbeddedBroker(self.home, process.free_port() if self._fresh_ports else None, say=self.say)
            self._broker = broker.__enter__()
            self.broker_url = broker.url
        given = self._postgres is None
        migrate(self.database_url, settings.timescaledb(), self.say if given else lambda _: None)
        seed(self.database_url, self.plant)
        for n, name in enumerate(("ingest", "rollup")):
            self.add(name, "mes", name, *(["--metrics-port", str(self.metrics_port + n)] if self.metrics_port else []), backend=True)
        if self.board_port is not None:
            self.add("board", "mes", "board", "--port", str(self.board_port), backend=True)

    def _launch(self, service: Service) -> None:
        service.began = time.monotonic()
        service.child = process.spawn(service.command, service.log, env=self.environment)


def _runs(service: Service) -> bool:
    return service.child is not None and service.child.poll() is None


def _ask(service: Service) -> None:
    if service.child:
        process.ask(service.child, signal.SIGTERM)


def _kill(service: Service) -> None:
    if service.child:
        service.child.kill()
        service.child.wait()
        service.child = None


def up(
    *,
    home: Path | None = None,
    seeds: Path | None = None,
    database_url: str | None = None,
    broker_url: str | None = None,
    board_port: int = BOARD_PORT,
    metrics_port: int | None = None,
) -> None:
    """Run the backend until SIGINT or SIGTERM. What is not given comes from MES_..., and servers that are not given
    at all are started; raises ConfigError, Refused or Unavailable with nothing left running."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        stopping_by_signal(),
        stack_of(home, seeds, database_url, broker_url, board_port, metrics_port) as stack,
    ):
        where_to_look(stack)
        while True:
            stack.tend()
            time.sleep(_TICK_S)
    announce("stopped")


def stack_of(
    home: Path | None,
    seeds: Path | None,
    database_url: str | None,
    broker_url: str | None,
    board_port: int | None,
    metrics_port: int | None = None,
) -> Stack:
    """A Stack from what is given, else from the environment, else from the defaults."""
    database_url, broker_url = given_urls(database_url, broker_url)
    return Stack(
        (home or settings.home()).absolute(),
        (seeds or settings.seeds()).absolute(),
        database_url=database_url,
        broker_url=broker_url,
        board_port=board_port,
        metrics_port=metrics_port,
    )


def given_urls(database_url: str | None, broker_url: str | None) -> tuple[str | None, str | None]:
    """The servers' URLs as given or as in the environment, checked; None where there is none."""
    database = database_url or os.environ.get("MES_DATABASE_URL")
    broker = broker_url or os.environ.get("MES_BROKER_URL")
    if database:
        settings.check_url("MES_DATABASE_URL", database, ("postgresql", "postgres"))
    if broker:
        settings.check_url("MES_BROKER_URL", broker, ("mqtt", "mqtts"))
    return database or None, broker or None


def where_to_look(stack: Stack) -> None:
    """Print how a person reaches board, database and broker."""
    broker = urlsplit(stack.broker_url)
    if stack.board_port is not None:
        announce(f"board      http://127.0.0.1:{stack.board_port}")
    given = "" if stack.embeds_database and not logs.is_json() else "  (with the password that it was given)"
    announce(f'database   psql "{settings.without_password(stack.database_url) if given else stack.database_url}"{given}')
    port, files = broker.port or 1883, ""
    if broker.scheme == "mqtts":
        flags = zip(("--cafile", "--cert", "--key"), Credentials.of_environment(), strict=True)
        port, files = broker.port or 8883, "".join(f" {flag} {path}" for flag, path in flags if path)
    announce(f"broker     mosquitto_sub -h {broker.hostname} -p {port}{files} -t 'umh/v1/cbak/+/+/+/_kpi_v1/#' -v")
    announce(f"logs       {stack.home / 'logs'}")


@contextlib.contextmanager
def stopping_by_signal() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, also where the shell had SIGINT ignored."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
