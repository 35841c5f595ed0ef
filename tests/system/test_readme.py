"""Every command of README.md runs, word for word, but for ports, folders and server addresses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.databases import Databases
from tests.pipeline import GRD, WND, Gateway, event, forget_sessions, service, sessions_held, value
from tests.plants import small_lines
from tests.servers import free_port, missing, wait_for

BLOCKS = dict(re.findall(r"<!-- block: (\w+) -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL))
TESTED = {
    "demo",
    "once",
    "test",
    "ask",
    "sql",
    "subscribe",
    "servers",
    "certificates",
    "doctor",
    "publish",
    "unscrap",
    "gaps",
    "quarantine",
    "retention",
    "seed",
}


class Plant:
    """A backend that has counted a few cells."""

    def __init__(self, database: str, broker: str) -> None:
        self.database = database
        self.broker = broker
        self.port = broker.rpartition(":")[2]

    def start(self, block: str, home: Path, **environment: str) -> subprocess.Popen[str]:
        """Run a block as a person would paste it."""
        text = BLOCKS[block].replace("-p 1883", f"-p {self.port}")
        text = text.replace("postgresql://mes:secret@127.0.0.1:5432/mes", self.database).replace("mqtt://127.0.0.1:1883", self.broker)
        text = text.replace(".mes/", f"{home}/")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=ROOT, env={**clean, "MES_HOME": str(home), "MES_BOARD_PORT": str(free_port()), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, block: str, home: Path, seconds: float = 60, **environment: str) -> str:
        running = self.start(block, home, **environment)
        try:
            output = running.communicate(timeout=seconds)[0]
        finally:
            running.kill()
        assert running.returncode == 0, output
        return output


def until(running: subprocess.Popen[str], pattern: str) -> str:
    """Read its output until the pattern comes."""
    assert running.stdout
    seen = ""
    for line in running.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"{pattern!r} never came: {seen}")


def ctrl_c(running: subprocess.Popen[str]) -> None:
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 0


@pytest.fixture(scope="module")
def counting(new_database: Databases, embedded_broker_server: str) -> Iterator[Plant]:
    database, broker = new_database(), embedded_broker_server
    forget_sessions(broker)
    with service("ingest", database, broker), service("rollup", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.cells(GRD, [event(i) for i in range(1, 101)])
        scrapped = event(1, unit="NJ1-26K22-0001234", result="scrap", defect="W01")
        gateway.cells(WND.replace("/wnd/01/", "/wnd/02/"), [scrapped])
        wait_for(lambda: value(database, "SELECT max(good) FROM report.daily_throughput") == 100, 60, "figures")
        yield Plant(database, broker)


def clients() -> None:
    if not shutil.which("mosquitto_pub"):
        missing("mosquitto_pub", "mosquitto-clients")
    if not shutil.which("psql"):
        missing("psql", "postgresql-client")


def test_every_block_is_tested() -> None:
    assert BLOCKS.keys() == TESTED
    assert (ROOT / "README.md").read_text().count("```sh") == len(BLOCKS)


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).is_file(), path


def test_demo(counting: Plant, tmp_path: Path) -> None:
    running = counting.start("demo", tmp_path / "home", MES_SEEDS=str(small_lines(tmp_path / "seeds", 100.0)))
    until(running, "mosquitto_sub")
    ctrl_c(running)


def test_once(counting: Plant, tmp_path: Path) -> None:
    output = counting.run("once", tmp_path / "home", 300, MES_SEEDS=str(small_lines(tmp_path / "seeds", 100.0)))
    assert "equals what was simulated: yes" in output


def test_test(counting: Plant, tmp_path: Path) -> None:
    """What runs this test is the command itself; here it is seen to set up and to find all tests."""
    assert "test_every_block_is_tested" in counting.run("test", tmp_path / "home", 300, PYTEST_ADDOPTS="--collect-only -q")


def test_ask(counting: Plant, tmp_path: Path) -> None:
    output = counting.run("ask", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert "nanjing/cells/32140-1" in output
    assert re.search(r"wnd +02 +1 +scrap +W01", output)
    assert "buckets summed" in output
    assert "dalian/cells/26650-1" in output


def test_sql(counting: Plant, tmp_path: Path) -> None:
    clients()
    output = counting.run("sql", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert re.search(r"nanjing/cells/32140-1 \| 2026-11-22 +\| +100 \| +50000 \| +0.002", output)
    assert output.count("rows)") + output.count("(1 row)") == 4


def test_subscribe(counting: Plant, tmp_path: Path) -> None:
    clients()
    running = counting.start("subscribe", tmp_path / "home")
    try:
        assert re.search(r'"production_day":"20\d\d-\d\d-\d\d","value":\d', until(running, "nanjing.*throughput_day"))
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.communicate(timeout=10)


def test_servers(tmp_path: Path, new_database: Databases, mosquitto: str) -> None:
    mine = Plant(new_database(), mosquitto)
    running = mine.start("servers", tmp_path / "home", MES_SEEDS=str(small_lines(tmp_path / "seeds", 100.0)))
    until(running, "psql")
    ctrl_c(running)


def test_certificates(counting: Plant, tmp_path: Path) -> None:
    output = counting.run("certificates", tmp_path / "home", MES_SEEDS=str(small_lines(tmp_path / "seeds", 100.0)))
    assert re.search(r"machines/nanjing/cells/32140-1/wnd/03 +nanjing/cells/32140-1/wnd/03 ", output)
    assert (tmp_path / "home/pki/acl").is_file()


def test_doctor(counting: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests does without fsync, which is found."""
    block = BLOCKS["doctor"].replace("mes doctor", "! mes doctor")  # that is exit code 2, and the shell goes on
    monkeypatch.setitem(BLOCKS, "doctor", block)
    output = counting.run("doctor", tmp_path / "home", 120, MES_DATABASE_URL=counting.database, MES_BROKER_URL=counting.broker)
    assert re.search(r"database\.durability +fsync = off: a crash of the machine can destroy the database", output)
    assert '"name": "broker.queue_cap"' in output
    assert '"exit_code": 2' in output


def test_publish(counting: Plant, tmp_path: Path) -> None:
    clients()
    counting.run("publish", tmp_path / "home")
    wait_for(
        lambda: value(counting.database, "SELECT count(*) FROM mes.cell_event WHERE unit = 'NJ1-26K22-0001234' AND boot = 17") == 1,
        what="the cell stored",
    )


def test_unscrap(counting: Plant, tmp_path: Path) -> None:
    output = counting.run("unscrap", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert re.search(r"scrap by nanjing/cells/32140-1/wnd/02 at 2026-11-22 .* taken back, booked on", output)


def test_gaps(counting: Plant, tmp_path: Path) -> None:
    with Gateway(counting.broker) as gateway:
        gateway.cells(WND, [event(i) for i in range(18842, 18845)])
    wait_for(lambda: value(counting.database, "SELECT count(*) FROM mes.cell_event WHERE seq = 18844") == 1, what="the cells stored")
    output = counting.run("gaps", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert "closed 18841 of machine nanjing/cells/32140-1/wnd/01, boot 1" in output


def test_quarantine(counting: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gateway(counting.broker) as gateway:
        gateway.send([(WND, b"hello")])
    query = "SELECT max(quarantine_id) FROM mes.quarantine WHERE payload = 'hello'"
    number = wait_for(lambda: value(counting.database, query), what="quarantine")
    monkeypatch.setitem(BLOCKS, "quarantine", BLOCKS["quarantine"].replace("17", str(number)))
    output = counting.run("quarantine", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert "0 understood: 0 events stored, 0 duplicates; 1 stay" in output
    assert "discarded 1" in output
    assert "the vendor's test message" in output


def test_retention(counting: Plant, tmp_path: Path) -> None:
    output = counting.run("retention", tmp_path / "home", MES_DATABASE_URL=counting.database)
    assert re.search(r"events before 20\d\d-\d\d-\d\d 00:00Z may go", output)
    assert output.count("events are kept 365 days") == 2
    assert "events are compressed after 7 days, but " in output
    assert "dropped: nothing" in output


def test_seed(counting: Plant, tmp_path: Path) -> None:
    assert "2 sites, 2 lines: unchanged" in counting.run("seed", tmp_path / "home", MES_DATABASE_URL=counting.database)


assert sys.platform == "linux", "the README says Linux"
