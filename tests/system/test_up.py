"""`mes up` and `mes demo` as a person starts and stops them: real servers, real services, small lines."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest

from mes.embedded import process
from tests.databases import KIND, create
from tests.plants import small_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """About 10,000 events a line and day."""
    return small_lines(tmp_path / "seeds", 100.0)


def wait_until(happened: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for: {what}"
        time.sleep(0.05)


def processes_of(place: Path) -> dict[int, str]:
    """Command lines, by pid, of running processes that have to do with `place`."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            texts = command + (entry / "environ").read_bytes() + os.readlink(entry / "cwd").encode()
            if command and int(entry.name) != os.getpid() and str(place).encode() in texts:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode()
    return found


class Running:
    """A `mes` command that runs in a home below `place`."""

    def __init__(self, place: Path, *words: str, **environment: str) -> None:
        self.place = place
        self.out = place / "out"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
        with self.out.open("wb") as out, (place / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mes", *words],
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**clean, "MES_HOME": str(place / "home"), "COLUMNS": "200", **environment},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.out.read_text()

    @property
    def errors(self) -> str:
        return (self.place / "err").read_text()

    def says(self, pattern: str, seconds: float = 90.0) -> str:
        """Wait until the output matches; the first group of the match."""
        wait_until(lambda: re.search(pattern, self.text) or self.process.poll() is not None, f"{pattern!r} in the output", seconds)
        match = re.search(pattern, self.text)
        assert match is not None, f"{pattern!r} never came: {self.text}{self.errors}"
        return match[1] if match.groups() else match[0]

    def ctrl_c(self, sig: signal.Signals = signal.SIGINT) -> int:
        """What the terminal does: signal the whole foreground process group."""
        os.killpg(self.process.pid, sig)
        return self.process.wait(30)

    def child(self, words: str) -> int:
        """The pid of a child by its command line; waits until there is one."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = [pid for pid, command in processes_of(self.place).items() if words in command]
            return bool(found)

        wait_until(seen, f"a process {words!r}")
        return found[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `mes WORDS`; what still runs at the end is killed, and its children with it."""
    running: list[Running] = []

    def begin(*words: str, **environment: str) -> Running:
        running.append(Running(tmp_path, *words, **environment))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.wait()
    wait_until(lambda: not processes_of(tmp_path), f"nothing to run any more, but {processes_of(tmp_path)}")


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Callable[[], dict[str, str]]:
    """The environment for a start: its own embedded PostgreSQL, or an empty database of the server of this run where that is another."""
    if KIND == "embedded":
        return dict
    server, numbers = request.getfixturevalue("server_url"), itertools.count(1)
    return lambda: {"MES_DATABASE_URL": create(server, f"{request.node.name}_{next(numbers)}")}


def up(start: Callable[..., Running], seeds: Path) -> tuple[Running, str, int]:
    """A backend whose sessions are held; with the URL of its database and the port of its broker."""
    running = start("up", "--seeds", str(seeds), "--board-port", str(process.free_port()))
    url, port = running.says('psql "(.*)"'), int(running.says(r"mosquitto_sub -h 127\.0\.0\.1 -p (\d+)"))
    wait_until(lambda: query(url, "SELECT count(*) FROM mes.line_session") == 2, "both sessions")
    return running, url, port


def query(url: str, sql: str) -> Any:
    """The only value of a statement, None while the database is away."""
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
            return row and row[0]
    except psycopg.OperationalError:
        return None


def report_cells(port: int, first_seq: int, count: int) -> None:
    machine = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="machine")
    machine.connect("127.0.0.1", port)
    machine.loop_start()
    for seq in range(first_seq, first_seq + count):
        event = {
            "boot": 1,
            "seq": seq,
            "timestamp_ms": 1_750_000_000_000 + seq,
            "unit": f"NJ1-{seq}",
            "attempt": 1,
            "result": "pass",
            "cycle_s": 7.0,
        }
        sent = machine.publish("umh/v1/cbak/nanjing/cells/32140-1/pck/01/_cell_v1/completed", json.dumps(event), qos=1)
        sent.wait_for_publish(30)
        assert sent.is_published()
    machine.disconnect()
    machine.loop_stop()


# -- up ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_up_counts_cells_and_stops_when_told(start: Callable[..., Running], seeds: Path, tmp_path: Path, sig: signal.Signals) -> None:
    running, url, port = up(start, seeds)
    report_cells(port, 1, 50)
    wait_until(lambda: query(url, "SELECT good FROM report.daily_throughput") == 50, "50 cells in the report")
    assert running.ctrl_c(sig) == 0
    assert processes_of(tmp_path) == {}
    assert "ended" not in running.text
    assert "Traceback" not in "".join(log.read_text() for log in (tmp_path / "home" / "logs").iterdir())


def test_a_second_start_goes_on_and_two_at_once_do_not(start: Callable[..., Running], seeds: Path, tmp_path: Path) -> None:
    first, url, port = up(start, seeds)
    report_cells(port, 1, 5)
    wait_until(lambda: query(url, "SELECT count(*) FROM mes.cell_event") == 5, "5 events")
    (tmp_path / "second").mkdir()
    second = Running(tmp_path / "second", "up", "--board-port", str(process.free_port()), MES_HOME=str(tmp_path / "home"))
    assert second.process.wait(60) == 2
    assert re.fullmatch(r"mes: .*already running there \(process \d+\): stop it, or set MES_HOME.*\n", second.errors)
    assert query(url, "SELECT count(*) FROM mes.cell_event") == 5
    first.ctrl_c()
    _, again, _ = up(start, seeds)
    assert again == url
    assert query(url, "SELECT count(*) FROM mes.cell_event") == 5


def test_what_dies_is_started_again_and_nothing_is_lost(start: Callable[..., Running], seeds: Path) -> None:
    running, url, port = up(start, seeds)
    report_cells(port, 1, 20)
    for n, words in enumerate(("-m mes ingest", "-m mes rollup", "bin/nats-server", "bin/postgres -D"), 1):
        pid = running.child(words)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: pid not in processes_of(running.place), "the process to be gone")
        running.child(words)
        wait_until(lambda: query(url, "SELECT 1") == 1, "the database")
        wait_until(lambda: answers(port), "the broker")
        report_cells(port, 20 * n + 1, 20)
    wait_until(lambda: query(url, "SELECT good FROM report.daily_throughput") == 100, "100 cells in the report")


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_kill_9_leaves_nothing_running(start: Callable[..., Running], seeds: Path, tmp_path: Path) -> None:
    running, _, _ = up(start, seeds)
    assert len(processes_of(tmp_path)) > 5
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    wait_until(lambda: not processes_of(tmp_path), "children to end")


@contextlib.contextmanager
def refusing_broker() -> Iterator[int]:
    """A broker that answers every CONNECT with "not authorised"."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    with link:
                        link.recv(1024)
                        link.sendall(b"\x20\x02\x00\x05")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def refused(running: Running, pattern: str) -> None:
    """It ends with exit code 2, one line that matches, and nothing left running."""
    assert running.process.wait(60) == 2, running.text + running.errors
    assert re.fullmatch(rf"mes: [^\n]*{pattern}[^\n]*\n", running.errors), running.errors
    assert processes_of(running.place) == {}


def test_a_taken_board_port_is_one_line(start: Callable[..., Running], seeds: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(start("up", "--seeds", str(seeds), "--board-port", str(port)), rf"port {port} is taken by process \d+ .*--board-port")


def test_broken_seeds_are_one_line(start: Callable[..., Running], seeds: Path) -> None:
    (seeds / "targets.toml").write_text("target = 7")
    refused(start("up", "--seeds", str(seeds), "--board-port", str(process.free_port())), r"targets\.toml: .*target")


def test_a_home_that_cannot_be_written_is_one_line(start: Callable[..., Running], seeds: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    running = start("up", "--seeds", str(seeds), "--board-port", str(process.free_port()), MES_HOME=str(tmp_path / "file" / "home"))
    refused(running, "file/home: cannot be written .*set MES_HOME")


def test_a_broker_that_refuses_is_one_line(start: Callable[..., Running], seeds: Path) -> None:
    with refusing_broker() as port:
        url = f"mqtt://127.0.0.1:{port}"
        refused(start("up", "--seeds", str(seeds), "--board-port", str(process.free_port()), MES_BROKER_URL=url), f"{url}.*")


def test_a_url_of_another_kind_is_one_line(start: Callable[..., Running], seeds: Path) -> None:
    for name, url in (("MES_BROKER_URL", "http://127.0.0.1"), ("MES_DATABASE_URL", "mysql://127.0.0.1")):
        refused(start("up", "--seeds", str(seeds), "--board-port", str(process.free_port()), **{name: url}), f"{name}.*{url}")


# -- demo --------------------------------------------------------------------------------------------------------------


def figures(text: str) -> list[str]:
    return [" ".join(re.findall(r"[\w.,%/+-]+", line)) for line in text.splitlines() if re.search(r"\w+/cells/\S+ .*20\d\d-", line)]


def test_demo_once_equals_what_was_simulated(
    start: Callable[..., Running], database: Callable[[], dict[str, str]], seeds: Path, tmp_path: Path
) -> None:
    running = start("demo", "--once", "--seeds", str(seeds), "--day", "2026-03-02", "--seed", "5", **database())
    assert running.process.wait(300) == 0, running.text + running.errors
    assert "equals what was simulated: yes" in running.text
    assert len(figures(running.text)) == 2
    assert processes_of(tmp_path) == {}


def test_killing_ingest_in_the_middle_of_a_day_changes_nothing(
    start: Callable[..., Running], database: Callable[[], dict[str, str]], tmp_path: Path
) -> None:
    seeds = small_lines(tmp_path / "seeds", 20.0)
    words = ("demo", "--once", "--seeds", str(seeds), "--day", "2026-03-02")
    undisturbed = start(*words, **database())
    assert undisturbed.process.wait(300) == 0, undisturbed.text + undisturbed.errors
    reports = figures(undisturbed.text)

    disturbed = start(*words, **database())
    pid = disturbed.child("-m mes ingest")
    url = next(v for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if v.startswith("MES_DATABASE_URL=")).partition("=")[2]
    stored = 0
    for _ in range(2):
        wait_until(lambda stored=stored: (query(url, "SELECT count(*) FROM mes.cell_event") or 0) > stored, "more events")
        stored = query(url, "SELECT count(*) FROM mes.cell_event")
        os.kill(disturbed.child("-m mes ingest"), signal.SIGKILL)
    assert disturbed.process.wait(300) == 0, disturbed.text + disturbed.errors
    assert "ingest ended by signal 9" in disturbed.text
    assert "equals what was simulated: yes" in disturbed.text
    assert figures(disturbed.text) == reports


def test_demo_shows_figures_stops_and_goes_on(start: Callable[..., Running], seeds: Path, tmp_path: Path) -> None:
    words = ("demo", "--seeds", str(seeds), "--speed", "3600", "--board-port", str(process.free_port()))
    running = start(*words)
    url = running.says('psql "(.*)"')
    assert "http://127.0.0.1:" in running.text
    assert "mosquitto_sub -h 127.0.0.1 -p" in running.text
    for line in ("nanjing/cells/32140-1", "dalian/cells/26650-1"):
        running.says(rf"{line} \d{{4}}-\d\d-\d\d: [1-9][\d,]* good of")
    assert running.ctrl_c() == 0
    assert processes_of(tmp_path) == {}
    again = start(*words)
    assert again.says('psql "(.*)"') == url
    before = query(url, "SELECT count(*) FROM mes.cell_event")
    assert before > 0
    wait_until(lambda: query(url, "SELECT count(*) FROM mes.cell_event") > before, "more events")
    assert query(url, "SELECT count(*) FROM mes.machine_ledger WHERE boot <> 1") == 0, "the machines went on, they did not begin again"
    assert again.ctrl_c() == 0
