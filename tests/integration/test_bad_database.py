"""A database that will not do, and every command that needs it: one line that says what to do, exit 2 where waiting is no use, else
exit 3, or another try where the command is a service."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.commands import END, GO_ON, results
from tests.conftest import SEEDS
from tests.pipeline import GRD, Gateway, environment, event, rows, sessions_held, value
from tests.servers import Mosquitto, debian_programs, free_port, postgres_server, stopped_at_the_end, wait_for

AWAY = "mqtt://127.0.0.1:1"
WRITERS = [command for command in END if command[0] in ("migrate", "seed", "rollup")]


def at(url: str, *, port: int | None = None, user: str | None = None, password: str = "", database: str | None = None) -> str:
    """The URL with parts of it replaced."""
    parts = urlsplit(url)
    who = f"{user}:{password}" if user else parts.netloc.rpartition("@")[0]
    where = f"{parts.hostname}:{port or parts.port}"
    return urlunsplit(parts._replace(netloc=f"{who}@{where}", path=f"/{database}" if database else parts.path))


def one_line(said: str) -> str:
    """What stderr holds beside the log, which is to be one line of ours."""
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert len(lines) == 1, said
    assert lines[0].startswith("mes: ")
    return lines[0]


def all_refuse(database: str, pattern: str, commands: list[list[str]] | None = None) -> None:
    """Every command, or these, ends with exit code 2 and one line."""
    ends = [command for command in commands or END if command in END]
    for command, (code, said) in zip(ends, results(ends, database, AWAY), strict=True):
        assert code == 2, (command, said)
        assert re.search(pattern, one_line(said)), command
    for command in [command for command in commands or GO_ON if command in GO_ON]:
        done = subprocess.run(
            [sys.executable, "-m", "mes", *command],
            env=environment(database, AWAY),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, (command, done.stderr)
        assert re.search(pattern, one_line(done.stderr)), command


def all_wait(database: str, pattern: str, folder: Path, commands: list[list[str]] | None = None) -> None:
    """Every command, or these, ends with exit code 3 and one line; services say it and go on trying."""
    ends = [command for command in commands or END if command in END]
    for command, (code, said) in zip(ends, results(ends, database, AWAY), strict=True):
        assert code == 3, (command, said)
        assert re.search(pattern, one_line(said)), command
    with contextlib.ExitStack() as running:
        services = {command[0]: running.enter_context(trying(database, AWAY, folder / command[0], command)) for command in GO_ON}
        for name, service in services.items():
            times = 1 if name == "board" else 2  # the board says it once, on the page all the time
            wait_for(lambda name=name, times=times: len(re.findall(pattern, (folder / name).read_text())) >= times, 60, name)  # type: ignore[misc]
            assert service.poll() is None
            assert "Traceback" not in (folder / name).read_text()
            if name != "board":
                assert re.search(r"; trying again in \d", (folder / name).read_text())


@contextlib.contextmanager
def trying(database: str, broker: str, log: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        running = subprocess.Popen([sys.executable, "-m", "mes", *command], env=environment(database, broker), stdout=out, stderr=out)
        with stopped_at_the_end(running):
            yield running


def test_a_wrong_password(database: str) -> None:
    all_refuse(
        at(database, user="mes", password="wrong"),
        r'database postgresql://mes@\S+: .*password authentication failed for user "mes"; check MES_',
    )


def test_a_database_that_is_not_there(database: str) -> None:
    all_refuse(at(database, database="nowhere"), r'database "nowhere" does not exist; check MES_DATABASE_URL$')


def test_a_schema_that_is_not_there(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA mes, kpi, report CASCADE")
    all_refuse(database, r"run `mes migrate`$", [command for command in (*END, *GO_ON) if command != ["migrate"]])


def test_a_schema_that_is_newer(database: str) -> None:
    rows(database, "INSERT INTO mes.schema_migration (number, name, digest) VALUES (9999, 'future', '') RETURNING 1")
    commands = [*WRITERS, ["ingest"], ["rollup"], ["quarantine", "replay", "--all"]]
    all_refuse(database, r"schema is at 9999, newer than this program's \d+: update the program$", commands)


def test_a_schema_that_is_older(database: str) -> None:
    rows(database, "DELETE FROM mes.schema_migration WHERE number = (SELECT max(number) FROM mes.schema_migration) RETURNING 1")
    all_refuse(database, r"schema lacks 1 migrations: run `mes migrate`$", [["seed"], ["rollup", "--all"], ["ingest"], ["rollup"]])


def test_a_server_that_is_too_old(database: str) -> None:
    """One that says so: its greeting is changed on the way."""
    port = urlsplit(database).port
    assert port
    version = value(database, "SHOW server_version")
    old = f"13{version[2:]}"
    with changing(port, f"server_version\0{version}\0".encode(), f"server_version\0{old}\0".encode()) as changed:
        all_refuse(at(database, port=changed), rf"PostgreSQL {re.escape(old)} is too old: upgrade the server to 15 or newer$")


def test_nobody_listens(database: str, tmp_path: Path) -> None:
    port = free_port()
    all_wait(at(database, port=port), rf"database postgresql://mes@127.0.0.1:{port}/\S+: .*Connection refused", tmp_path)


def test_a_host_that_nobody_knows(tmp_path: Path) -> None:
    all_wait(
        "postgresql://mes:secret@no-such-host.invalid/mes",
        r"no-such-host.invalid\W.*; start it, if its name comes with it, or check MES_",
        tmp_path,
    )


def test_no_connection_is_left(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS crowd")
        connection.execute("CREATE ROLE crowd LOGIN PASSWORD 'crowd' CONNECTION LIMIT 0")
        try:
            all_wait(
                at(database, user="crowd", password="crowd"),
                r'too many connections for role "crowd"; end what .* raise max_connections',
                tmp_path,
            )
        finally:
            connection.execute("DROP ROLE crowd")


@contextlib.contextmanager
def changing(port: int, before: bytes, after: bytes) -> Iterator[int]:
    """A port that leads to `port` and changes what the server says, once in each connection, where it comes in one piece."""
    assert len(before) == len(after)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                up = threading.Thread(target=copy, args=(self.request, server, b"", b""), daemon=True)
                up.start()
                copy(server, self.request, before, after)
                up.join(10)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        serving = threading.Thread(target=listening.serve_forever)
        serving.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            serving.join()


def copy(source: socket.socket, sink: socket.socket, before: bytes, after: bytes) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data.replace(before, after) if before else data)
        sink.shutdown(socket.SHUT_WR)


def test_a_standby_is_waited_for_and_may_be_asked(tmp_path: Path, mosquitto_of_mine: Mosquitto) -> None:
    """Nothing is taken from the broker's session of the primary meanwhile; when the standby takes over, everything goes on with it."""
    programs = debian_programs()
    broker = mosquitto_of_mine
    with contextlib.ExitStack() as servers:
        primary = servers.enter_context(postgres_server(programs, {}))
        migrate(primary)
        seed(primary, load_plant(SEEDS))
        copied = tmp_path / "standby"
        subprocess.run(
            [programs / "pg_basebackup", "-d", primary, "-D", copied, "-R", "-X", "stream", "--checkpoint=fast"],
            check=True,
            capture_output=True,
        )
        standby = servers.enter_context(postgres_server(programs, {}, data=copied))
        wait_for(lambda: value(standby, "SELECT pg_is_in_recovery()"), what="a standby")
        ends = [*WRITERS, ["quarantine", "replay", "--all"]]
        for command, (code, said) in zip(ends, results(ends, standby, AWAY), strict=True):
            assert code == 3, (command, said)
            assert re.search(r"; it is a standby, or kept from filling up: wait, or name the primary", one_line(said)), command
        asked = [["report", "daily"], ["ledger", "gaps"], ["quarantine", "list"]]
        assert [code for code, _ in results(asked, standby, AWAY)] == [0, 0, 0]
        with (
            trying(primary, broker.url, tmp_path / "first", ["ingest"]) as first,
            trying(standby, broker.url, tmp_path / "second", ["ingest"]) as second,
            trying(standby, broker.url, tmp_path / "rollup", ["rollup"]) as rollup,
            Gateway(broker.url) as gateway,
        ):
            for name in ("second", "rollup"):
                wait_for(lambda name=name: (tmp_path / name).read_text().count("it is a standby") >= 2, 60, name)  # type: ignore[misc]
            sessions_held(primary)
            gateway.cells(GRD, [event(i) for i in range(1, 51)])
            wait_for(lambda: value(standby, "SELECT count(*) FROM mes.cell_event") == 50, 60, "stored, and followed")
            assert "session held" not in (tmp_path / "second").read_text()
            assert "trying again" not in (tmp_path / "first").read_text()
            first.terminate()
            first.wait(20)
            gateway.cells(GRD, [event(i) for i in range(51, 101)])
            assert value(standby, "SELECT pg_promote()")
            wait_for(
                lambda: value(standby, "SELECT coalesce(max(good), 0) FROM report.daily_throughput") == 100, 60, "the standby takes over"
            )
            assert (second.poll(), rollup.poll()) == (None, None)
        for name in ("first", "second", "rollup"):
            assert "Traceback" not in (tmp_path / name).read_text()


def test_a_database_that_its_provider_keeps_from_filling_up(database: str, tmp_path: Path) -> None:
    name = urlsplit(database).path[1:]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    for command, (code, said) in zip(WRITERS, results(WRITERS, database, AWAY), strict=True):
        assert code == 3, (command, said)
        assert "it is a standby, or kept from filling up" in one_line(said)
