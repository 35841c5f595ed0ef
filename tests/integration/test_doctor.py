"""`mes doctor` as a person and as monitoring see it: exit codes, what is away, what hangs, and a deployment that is well."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mes.contract import encode
from mes.doctor import examine as examining
from mes.doctor import show
from mes.doctor.finding import Finding, Level, exit_code
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import ROOT, SEEDS
from tests.diagnosis import diagnose, execute, levels, one
from tests.pipeline import GRD, WND, Gateway, event, service, sessions_held, value
from tests.servers import Mosquitto, debian_postgres, free_port, wait_for

DALIAN = "umh/v1/cbak/dalian/cells/26650-1/{}/01/_cell_v1/completed"


def doctor(database: str = "", broker: str = "", *words: str, seconds: float = 120) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    urls = {name: url for name, url in (("MES_DATABASE_URL", database), ("MES_BROKER_URL", broker)) if url}
    command = [sys.executable, "-m", "mes", "doctor", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, **urls, "MES_HOME": "/nonexistent"}, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A server that takes connections and never says anything; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1]
        for link in taken:
            link.close()


@pytest.fixture
def plant() -> Iterator[str]:
    """A database on a server that keeps what it commits, and a role that is no superuser but sees everything."""
    with debian_postgres({"fsync": "on"}) as url:
        migrate(url)
        seed(url, load_plant(SEEDS))
        execute(url, "CREATE ROLE looker LOGIN; GRANT pg_read_all_data, pg_monitor TO looker")
        for role in ("mes_owner", "mes_ingest", "mes_rollup", "mes_dashboard"):
            execute(url, f"CREATE ROLE {role} LOGIN")
        execute(url, "GRANT USAGE ON SCHEMA report TO mes_dashboard; GRANT SELECT ON ALL TABLES IN SCHEMA report TO mes_dashboard")
        yield url


def test_a_deployment_that_is_well(plant: str, tmp_path: Path) -> None:
    """Both lines just worked: exit 0, and nothing worse than notes."""
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        service("ingest", plant, broker.url),
        service("rollup", plant, broker.url),
        Gateway(broker.url) as gateway,
    ):
        sessions_held(plant)
        now = int(time.time() * 1000)
        for topic in (WND, GRD, DALIAN.format("wnd")):
            gateway.cells(topic, [event(n, timestamp_ms=now - 10 * (100 - n)) for n in range(1, 101)])
        wait_for(lambda: value(plant, "SELECT count(*) FROM mes.cell_event") == 300, 60, "stored")
        wait_for(lambda: value(plant, "SELECT count(*) FROM mes.dirty_bucket") == 0, 60, "summed")
        as_looker = plant.replace("mes@", "looker@")
        code, out, _ = doctor(as_looker, broker.url, "--format", "json", "--probe-queue")
    report = json.loads(out)
    assert [f for f in report["findings"] if f["level"] in ("warning", "problem")] == []
    assert (code, report["exit_code"]) == (0, 0)
    assert report["status"] == "note"
    ok = {finding["name"] for finding in report["findings"] if finding["level"] == "ok"}
    assert ok >= {
        "broker.dropped", "broker.queue_cap", "broker.reachable", "broker.retained", "broker.sessions", "broker.version",
        "clock.database", "clock.machines", "clock.workers", "database.connections", "database.durability", "database.reachable",
        "database.schema", "database.timezones", "database.version", "disk.database", "gaps", "lines.lease", "lines.silent",
        "plant.loaded", "program.version", "quarantine", "roles.exist", "roles.own", "roles.rights", "rollup.marks", "rollup.runs",
        "tls.broker", "tls.database",
    }  # fmt: skip


def test_nothing_named_is_no_look_at_all() -> None:
    code, out, err = doctor()
    assert (code, out) == (3, "")
    assert err == "mes: neither MES_DATABASE_URL nor MES_BROKER_URL is set: nothing can be looked at\n"


def test_a_url_that_is_none_is_a_configuration_error() -> None:
    assert doctor("nonsense")[0] == 2


def test_servers_that_are_away_are_problems_each_by_itself(database: str, mosquitto: str) -> None:
    away = free_port()
    code, out, _ = doctor(f"postgresql://mes:geheim@127.0.0.1:{away}/mes", mosquitto)
    assert code == 2
    assert re.search(r"database\.reachable +database postgresql://mes@127\.0\.0\.1", out)
    assert "broker.version" in out
    assert "geheim" not in out
    code, out, _ = doctor(database, f"mqtt://mes:geheim@127.0.0.1:{away}")
    assert code == 2
    assert re.search(r"broker\.reachable +broker mqtt://mes@127\.0\.0\.1", out)
    assert "database.version" in out
    assert "geheim" not in out


def test_a_server_that_hangs_keeps_nobody_waiting_and_the_others_from_nothing(database: str, mosquitto: str) -> None:
    """Both ways round; the tables name the one that hangs and hold what the other said."""
    with mute() as port:
        found = diagnose(f"postgresql://mes@127.0.0.1:{port}/mes", mosquitto, within=14.0)
        assert levels(found, "database.reachable") == [Level.PROBLEM]
        assert levels(found, "broker.version") == [Level.OK]
        found = diagnose(database, f"mqtt://127.0.0.1:{port}", within=14.0)
        assert levels(found, "broker.reachable") == [Level.PROBLEM]
        assert levels(found, "database.version") == [Level.OK]
        code, out, _ = doctor(f"postgresql://mes@127.0.0.1:{port}/mes", f"mqtt://127.0.0.1:{port}", "--within", "2")
        assert code == 2
        assert out.count("not everything answered within 2 s") >= 2


def test_a_fault_of_a_check_is_told_and_hides_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(examining.server, "schema", broken)
    found = examining.examine(examining.Scope(database, None, Path("/nonexistent"), SEEDS))
    fault = one(found, "database.fault", Level.PROBLEM)
    assert "ZeroDivisionError" in fault.found
    assert levels(found, "database.version") == [Level.OK]


def test_what_a_role_may_not_see_is_said_and_the_rest_is_seen(database: str) -> None:
    execute(database, "DROP ROLE IF EXISTS nobody_much")
    execute(database, "CREATE ROLE nobody_much LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA report TO nobody_much")
    found = diagnose(re.sub(r"//mes:[^@]*@", "//nobody_much:x@", database))
    assert levels(found, "database.version") == [Level.OK]
    assert levels(found, "clock.database") == [Level.OK]
    denied = [finding for finding in found if "permission denied" in finding.found]
    assert denied
    assert all(finding.level is Level.WARNING and "run doctor as a role that may read" in finding.cure for finding in denied)


def test_the_table_is_read_at_80_columns() -> None:
    """On a terminal of 80 columns no line is longer, nothing is cut off, and what came from outside is no markup."""
    long = Finding("tls.client", Level.WARNING, "/etc/" + "x" * 150 + "[bold] [/] ü", "renew " + "it " * 60, "MES_BROKER_CERT")
    code = (
        "from rich.console import Console; from mes.doctor import show; from mes.doctor.finding import *; import msgspec, sys\n"
        f"show.print_table([{long!r}, Finding('x', Level.OK, 'y')], Console())"
    ).replace("<Level.WARNING: 2>", "Level.WARNING")
    main, side = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=side, env={**os.environ, "COLUMNS": "80", "TERM": "xterm"}, text=True
    )
    os.close(side)
    text = b""
    with contextlib.suppress(OSError):
        while more := os.read(main, 65536):
            text += more
    os.close(main)
    assert running.wait(30) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r", "")
    assert max(map(len, plain.splitlines())) <= 80
    joined = re.sub(r"\s+", "", plain)
    assert "x" * 150 + "[bold][/]ü" in joined
    assert joined.count("it") >= 60
    assert plain.index("! warning") < plain.index("✓ ok")


def test_the_worst_level_is_the_exit_code() -> None:
    finding = {level: Finding("x", level, "y") for level in Level}
    assert exit_code([]) == 3
    assert exit_code([finding[Level.OK]]) == exit_code([finding[Level.NOTE]]) == 0
    assert exit_code([finding[Level.OK], finding[Level.WARNING]]) == 1
    assert exit_code(list(finding.values())) == 2
    assert [f.level for f in show.ordered(list(finding.values()))] == sorted(Level, reverse=True)
    assert encode(event(1))
