"""The systemd units: correct, closed, and in the order of their After= a plant that counts, each in the confinement that it asks for."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from ruamel.yaml import YAML

from mes.contract import encode
from tests.conftest import ROOT
from tests.deployed import Deployed
from tests.installed import bare_environment, install, wheel
from tests.pipeline import GRD, event, rows, sessions_held
from tests.servers import debian_postgres, free_port, missing, wait_for
from tests.units import FOLDER, SERVICES, Plant, Unit, analyzed, placed

SAFE_ENOUGH = 1.2
"""Exposure by systemd-analyze, 0 to 10. What is left: the network, which is what they are for, and for rollup the compiler."""

INSTANCE = "1"
COMPOSE = YAML(typ="safe").load(ROOT / "deploy" / "compose.yaml")
COMPILES = "mes-rollup.service"


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return placed(tmp_path_factory.mktemp("units") / "system", Path("/bin/true"))


def test_systemd_understands_every_line(units: Path) -> None:
    names = [Unit(path, INSTANCE).name for path in sorted(FOLDER.glob("mes*.*")) if path.suffix in (".service", ".target", ".timer")]
    assert len(names) >= 6
    done = analyzed(units, "verify", *(f"./{name}" for name in names))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_is_exposed_to_little(path: Path, units: Path) -> None:
    name = Unit(path, INSTANCE).name
    done = analyzed(units, "security", "--offline=true", "--no-pager", f"--threshold={SAFE_ENOUGH * 10:.0f}", f"./{name}")
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found, done.stderr
    assert (done.returncode, float(found[1]) <= SAFE_ENOUGH) == (0, True), done.stdout


def hardening(path: Path) -> list[str]:
    """The block that all units share, line by line."""
    text = path.read_text()
    return text[text.index("# --- The same lines") : text.index("TasksMax=")].splitlines()


def test_all_units_are_closed_alike() -> None:
    blocks = {path.name: hardening(path) for path in SERVICES}
    for name, block in blocks.items():
        assert block == blocks[COMPILES], name
    for path in SERVICES:
        unit = Unit(path, INSTANCE)
        assert unit.has("MemoryDenyWriteExecute") != (unit.name == COMPILES), unit.name
        assert not unit.settings["User"], "a dynamic user has no name to give away"


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_secrets_come_as_files_and_what_is_set_wrong_is_not_started_again(path: Path) -> None:
    unit = Unit(path, INSTANCE)
    if path.stem == "mes-doctor":
        assert "Restart" not in unit.settings, "its timer starts it again"
    else:
        assert unit.one("Restart") == "on-failure"
        assert unit.one("RestartPreventExitStatus") == "2"
    assert unit.command[0] == "/opt/mes/bin/mes"
    names = [word.partition("=")[0] for word in unit.words("Environment")]
    assert [name for name in names if re.search("PASS|SECRET|TOKEN", name) and not name.endswith("_FILE")] == []
    assert not [word for word in unit.words("Environment") if re.search(r"://[^/]*:[^/]*@", word)]
    role = next(word.removeprefix("PGUSER=") for word in unit.words("Environment") if word.startswith("PGUSER="))
    assert f"{role}:/etc/mes/secrets/{role}" in unit.settings["LoadCredential"]
    others = {"mes_owner", "mes_ingest", "mes_rollup", "mes_dashboard"} - {role}
    assert not [text for text in unit.settings["LoadCredential"] if any(other in text for other in others)], "one role each"


def test_what_is_enabled_starts_in_order_and_stops_together() -> None:
    migrate, seed, *services = [
        Unit(FOLDER / f"mes-{name}.service", INSTANCE) for name in ("migrate", "seed", "ingest@", "rollup", "board")
    ]
    assert migrate.name in seed.words("After")
    for unit in services:
        assert {migrate.name, seed.name, "postgresql.service"} <= set(unit.words("After")), unit.name
        assert float(unit.one("TimeoutStopSec").removesuffix("s")) >= 10
    for unit in (migrate, seed, *services):
        assert unit.one("PartOf") == unit.one("WantedBy") == "mes.target"
    for unit in (migrate, seed):
        assert unit.one("Type") == "oneshot"
        assert unit.has("RemainAfterExit"), "else each service that starts again would migrate"


# --- run by hand -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/mes/bin: the wheel of this checkout, installed."""
    folder = tmp_path_factory.mktemp("opt")
    return install(wheel(folder), folder / "mes")


@pytest.fixture
def database() -> Iterator[str]:
    """URL of Debian's PostgreSQL for its superuser, with an empty database `mes`, asking everybody else for a password."""
    with debian_postgres() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE mes")
            (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text("host all mes 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        yield url.replace("/postgres", "/mes")


def roles(database: str, secrets: Path) -> None:
    """The roles, with the passwords of the files, as a superuser makes them."""
    psql = shutil.which("psql")
    if psql is None:
        missing("psql", "postgresql-client")
    subprocess.run(
        [str(psql), "-X", "-q", "-d", database, "-f", ROOT / "deploy/database/roles.sql"],
        env=bare_environment(MES_SECRETS=str(secrets)), check=True,
    )  # fmt: skip


@pytest.fixture
def plant(tmp_path: Path, programs: Path) -> Plant:
    """A machine on which deploy/prepare has made the secrets."""
    plant = Plant(tmp_path, programs)
    shutil.copytree(ROOT / "seeds", plant.etc / "seeds")
    subprocess.run(
        [ROOT / "deploy/prepare", "--out", plant.etc / "secrets", "--pki", tmp_path / "pki", "--seeds", plant.etc / "seeds", "127.0.0.1"],
        env=bare_environment(MES=str(programs / "mes")), check=True, capture_output=True,
    )  # fmt: skip
    return plant


@pytest.fixture
def broker(plant: Plant) -> Iterator[Deployed]:
    """Debian's Mosquitto with the settings of deploy/mosquitto and what deploy/prepare has made."""
    folder = plant.root / "mosquitto"
    with Deployed(folder, changes=[(f"{folder}/pki/", f"{plant.etc}/secrets/")]) as broker:
        yield broker


def client(program: str, broker: Deployed, place: str, *words: str, **how: Any) -> str:
    """mosquitto_pub or mosquitto_sub with a certificate that deploy/prepare has made."""
    if shutil.which(program) is None:
        missing(program, "mosquitto-clients")
    pki = broker.folder.parent / "pki"
    files = ["--cafile", str(pki / "ca/plant.crt"), "--cert", str(pki / f"{place}.crt"), "--key", str(pki / f"{place}.key")]
    done = subprocess.run(
        [program, "-h", "127.0.0.1", "-p", str(broker.port), *files, "-q", "1", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **how,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_their_commands_in_order_are_a_plant_that_counts(plant: Plant, database: str, broker: Deployed, tell: Any) -> None:
    """Installed from the wheel, with the secrets, roles and broker of deploy/, each in the confinement of its unit: a machine's
    events go in, figures come out, SIGTERM ends each with exit 0."""
    roles(database, plant.etc / "secrets")
    at, board = urlsplit(database), free_port()
    (plant.etc / "mes.env").write_text(
        f"# addresses of this test\nMES_DATABASE_URL=postgresql://{at.hostname}:{at.port}/mes\n"
        f"MES_BROKER_URL={broker.backend_url}\nMES_BOARD_PORT={board}\n"
    )
    unit = {name: Unit(FOLDER / f"mes-{name}.service", INSTANCE) for name in ("migrate", "seed", "ingest@", "rollup", "board", "doctor")}

    for name in ("migrate", "seed"):
        with plant.started(unit[name]) as once:
            assert once.wait(60) == 0, plant.log(unit[name])
    assert "2 sites, 2 lines: loaded" in plant.log(unit["seed"])

    second = Unit(FOLDER / "mes-ingest@.service", "2")
    ports = {one.name: free_port() for one in (unit["ingest@"], second, unit["rollup"])}
    for one in (unit["ingest@"], second, unit["rollup"]):
        one.settings["Environment"].append(f"MES_METRICS_PORT={ports[one.name]}")
    with ExitStack() as stack:
        running = {name: stack.enter_context(plant.started(unit[name])) for name in ("ingest@", "rollup", "board")}
        running["second"] = stack.enter_context(plant.started(second))
        sessions_held(database)
        cells = b"\n".join(encode(event(n)) for n in range(1, 101)).decode()
        client("mosquitto_pub", broker, "machines/nanjing/cells/32140-1/grd/01", "-t", GRD, "-l", input=cells)
        query = "SELECT good FROM report.daily_throughput WHERE line = 'nanjing/cells/32140-1' AND good > 0"
        assert wait_for(lambda: rows(database, query), 60, "figures") == [(100,)]
        topic = "umh/v1/cbak/nanjing/cells/32140-1/_kpi_v1/throughput_day"
        wait_for(
            lambda: '"value":100' in client("mosquitto_sub", broker, "dashboards/dashboard", "-t", topic, "-C", "1", "-W", "30"),
            what="the figure as a retained message",
        )

        def on_the_board() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{board}/api/now", timeout=5) as answer:
                return b"32140-1" in answer.read()

        wait_for(on_the_board, what="the board")
        for service, port, said in (("ingest", 9464, ports[unit["ingest@"].name]), ("board", 8787, board)):
            _, *words = COMPOSE["services"][service]["healthcheck"]["test"]
            here = [word.replace(f":{port}/", f":{said}/").replace(f" {port},", f" {said},") for word in words]
            assert str(said) in here[-1]
            subprocess.run([plant.programs / here[0], *here[1:]], env=bare_environment(), check=True)
        users = rows(database, "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE usename LIKE 'mes_%' ORDER BY 1")
        assert users == [("mes_dashboard",), ("mes_ingest",), ("mes_rollup",)]
        for name in running:
            status = Path(f"/proc/{running[name].pid}/status").read_text()
            assert re.search(r"Seccomp:\s2", status), name
            assert re.search(r"NoNewPrivs:\s1", status), name
            assert re.search(r"CapEff:\s0+$", status, re.MULTILINE), name

        with plant.started(unit["doctor"]) as once:
            once.wait(60)
        found = plant.log(unit["doctor"])
        assert "Traceback" not in found, found
        assert "roles.rights" in found.partition("✓ ok")[2], found

        for name, process in running.items():
            process.send_signal(signal.SIGTERM)
            assert process.wait(float(unit.get(name, second).one("TimeoutStopSec").removesuffix("s"))) == 0, name
    for one in (*unit.values(), second):
        assert "Traceback" not in plant.log(one), plant.log(one)
    kernels = list((plant.root / "cache" / "mes").rglob("*.nbi"))
    assert kernels, "numba keeps what it has compiled in the cache folder"
    tell(f"{len(kernels)} kernels in the cache, exits 0 of {', '.join(running)}")


def test_what_is_set_wrong_ends_with_the_code_that_is_not_started_again(plant: Plant, database: str) -> None:
    board = Unit(FOLDER / "mes-board.service")
    at = urlsplit(database)
    (plant.etc / "mes.env").write_text(f"MES_DATABASE_URL=postgresql://{at.hostname}:{at.port}/mes\nMES_BOARD_PORT={free_port()}\n")
    roles(database, plant.etc / "secrets")
    file = plant.etc / "secrets" / "mes_dashboard"
    file.chmod(0o600)
    file.write_text("not the password")
    with plant.started(board) as process:
        assert process.wait(60) == int(board.one("RestartPreventExitStatus"))
    said = plant.log(board).splitlines()[-1]
    assert re.search(
        r'password authentication failed for user "mes_dashboard"; check MES_DATABASE_URL and MES_DATABASE_PASSWORD_FILE', said
    )
    assert "not the password" not in said


def test_the_confinement_holds(plant: Plant) -> None:
    """What the test above ran in is no empty promise: memory that is written and executed, a call, a socket."""

    def says(file: str, code: str) -> str:
        unit = Unit(FOLDER / file)
        unit.settings["ExecStart"] = [f"/opt/mes/bin/python -c '{code}'"]
        with plant.started(unit) as process:
            process.wait(60)
        return (plant.log(unit).splitlines() or [""])[-1]

    mapped = 'import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); print("mapped")'
    assert says("mes-rollup.service", mapped) == "mapped"
    if tuple(map(int, Path("/proc/sys/kernel/osrelease").read_text().split(".")[:2])) >= (6, 3):
        assert says("mes-migrate.service", mapped) == "PermissionError: [Errno 13] Permission denied"
    assert says("mes-migrate.service", "import os; os.sched_setaffinity(0, {0})") == "PermissionError: [Errno 1] Operation not permitted"
    assert (
        says("mes-migrate.service", "import socket; socket.socket(socket.AF_NETLINK)")
        == "PermissionError: [Errno 1] Operation not permitted"
    )
