"""What cannot work is said in one line that names the cure: exit 2 where waiting is no use, another try where it is."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from mes.embedded import process
from tests.pipeline import GRD, WND, Gateway, environment, event, rows, sessions_held, subscriber, value
from tests.proxy import Proxy
from tests.servers import Mosquitto, accepts, free_port, stopped_at_the_end, wait_for


def refused(database: str, broker: str, command: str = "ingest") -> str:
    """The one line that `mes COMMAND` says last, which is all that its exit code 2 needs."""
    done = subprocess.run(
        [sys.executable, "-m", "mes", command], env=environment(database, broker), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@contextlib.contextmanager
def trying(database: str, broker: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        running = subprocess.Popen([sys.executable, "-m", "mes", "ingest"], env=environment(database, broker), stdout=out, stderr=out)
        with stopped_at_the_end(running):
            yield running


def with_password(folder: Path, extra: str = "") -> Mosquitto:
    """A Mosquitto that knows the user `mes` with the password `secret`."""
    folder.mkdir(parents=True)
    (folder / "passwords").write_text("mes:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", folder / "passwords"], check=True)
    (folder / "passwords").chmod(0o644)
    return Mosquitto(folder, f"password_file {folder}/passwords\n{extra}", anonymous=False)


def as_user(url: str, user: str, password: str) -> str:
    return url.replace("://", f"://{user}:{password}@", 1)


def test_a_wrong_password_of_the_database(database: str, embedded_broker: str) -> None:
    parts = urlsplit(database)
    line = refused(database.replace(f":{parts.password}@", ":wrong@"), embedded_broker)
    assert re.search(r'password authentication failed for user "mes".*check MES_DATABASE_URL', line)
    assert "wrong" not in line


def test_the_password_of_the_database_from_a_file(database: str, embedded_broker: str, tmp_path: Path) -> None:
    """Given apart from the URL, changed while a service runs, wrong, and away."""
    parts = urlsplit(database)
    without = database.replace(f":{parts.password}@", "@")
    file = tmp_path / "password"

    def run(*command: str, url: str = without) -> subprocess.CompletedProcess[str]:
        env = {**environment(url, embedded_broker), "MES_DATABASE_PASSWORD_FILE": str(file)}
        return subprocess.run([sys.executable, "-m", "mes", *command], env=env, capture_output=True, text=True, timeout=60, check=False)

    def said(*command: str) -> str:
        done = run(*command)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert said("seed") == f"mes: MES_DATABASE_PASSWORD_FILE='{file}' cannot be read: No such file or directory: let this user read it"
    file.write_text("wr0ng\n")
    line = said("ingest")
    assert re.search(r"password authentication failed for user .mes.*; check MES_DATABASE_URL and MES_DATABASE_PASSWORD_FILE$", line)
    assert "wr0ng" not in line
    assert run("seed", url=database).returncode == 0, "a URL with a password of its own needs no file"
    assert re.search("no password supplied.*; check MES_DATABASE_URL$", refused(without, embedded_broker))
    file.write_text(f"{parts.password}\n")
    assert run("seed").returncode == 0
    assert run("--database-password-file", str(file), "--database", without, "seed").returncode == 0


def test_a_database_that_is_not_there(database: str, embedded_broker: str) -> None:
    assert re.search(
        r'database "nowhere" does not exist; check MES_DATABASE_URL', refused(database.rpartition("/")[0] + "/nowhere", embedded_broker)
    )


def test_migrate_and_seed_wait_for_a_database_that_starts_with_them(database: str, tmp_path: Path) -> None:
    with Proxy(urlsplit(database).port or 5432) as link:
        link.refusing = True
        env = environment(database.replace(f":{urlsplit(database).port}/", f":{link.port}/"), "")
        done = subprocess.run([sys.executable, "-m", "mes", "migrate"], env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 3, done.stderr
        for command in ("migrate", "seed"):
            link.refusing = True
            with (tmp_path / command).open("wb") as log:
                words = [sys.executable, "-m", "mes", command, "--wait", "60"]
                with stopped_at_the_end(subprocess.Popen(words, env=env, stdout=log, stderr=log)) as waiting:
                    wait_for(lambda log=tmp_path / command: b"trying again in 1.0 s" in log.read_bytes(), what="a second try")  # type: ignore[misc]
                    assert waiting.poll() is None
                    link.refusing = False
                    assert waiting.wait(60) == 0, (tmp_path / command).read_text()


def test_a_schema_that_is_newer_than_the_program(database: str, embedded_broker: str) -> None:
    rows(database, "INSERT INTO mes.schema_migration (number, name, digest) VALUES (9999, 'future', '') RETURNING 1")
    for command in ("ingest", "rollup", "migrate"):
        assert re.search(
            r"schema is at 9999, newer than this program's \d+: update the program", refused(database, embedded_broker, command)
        )


def test_a_wrong_password_of_the_broker_and_the_right_one(database: str, tmp_path: Path) -> None:
    with with_password(tmp_path / "mosquitto") as broker:
        for url in (broker.url, as_user(broker.url, "mes", "wrong")):
            line = refused(database, url)
            assert re.search(
                r"broker mqtt://\S+ refused the connection \((user name or password|not authorised)\): check MES_BROKER_URL", line
            )
            assert "wrong" not in line
        with trying(database, as_user(broker.url, "mes", "secret"), tmp_path / "log"):
            sessions_held(database)


def test_a_subscription_that_is_not_permitted(database: str, tmp_path: Path) -> None:
    """NATS answers with a refusal; Mosquitto with an acl_file grants every subscription and then delivers nothing."""
    port = free_port()
    (tmp_path / "nats.conf").write_text(
        f'server_name: "x"\nhost: "127.0.0.1"\nport: -1\njetstream {{ store_dir: "{tmp_path}/store" }}\n'
        f'mqtt {{ host: "127.0.0.1", port: {port} }}\n'
        'authorization { users: [ { user: "mes", password: "secret", permissions: { subscribe: { deny: "umh.>" } } } ] }\n'
    )
    server = subprocess.Popen([process.program("nats-server", "MES_BROKER_URL"), "-c", tmp_path / "nats.conf"], stderr=subprocess.DEVNULL)
    with stopped_at_the_end(server):
        wait_for(lambda: accepts(port), what="NATS")
        line = refused(database, f"mqtt://mes:secret@127.0.0.1:{port}")
    assert re.search(r"refused the subscription umh/v1/cbak/\S+: grant this user to read it", line)


def test_a_mark_that_may_not_be_written_is_said_once_and_the_cells_are_stored(database: str, tmp_path: Path) -> None:
    """Mosquitto 2.0.11 also hangs up on who is refused: the other marks must get through all the same."""
    allowed = GRD.replace("_cell_v1/completed", "_ledger_v1/committed")
    (tmp_path / "acl").write_text(f"topic readwrite umh/v1/cbak/+/+/+/+/+/_cell_v1/completed\ntopic read #\ntopic write {allowed}\n")
    (tmp_path / "acl").chmod(0o644)
    log = tmp_path / "log"
    with Mosquitto(tmp_path / "mosquitto", f"acl_file {tmp_path}/acl\n") as broker, trying(database, broker.url, log):
        sessions_held(database)
        with Gateway(broker.url) as gateway, subscriber(broker.url, allowed) as marks:
            for n in range(1, 4):
                gateway.cells(WND, [event(n)])
                gateway.cells(GRD, [event(n)])
                wait_for(lambda n=n: marks.get(allowed) == {"boot": 1, "seq": n}, 60, "the mark that may be written")  # type: ignore[misc]
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 6, 60, "stored")
    said = [line for line in log.read_text().splitlines() if WND.replace("_cell_v1/completed", "_ledger_v1/committed") in line]
    assert ["(not authorised): grant this user to write it" in line for line in said] == [True]
    assert "Traceback" not in log.read_text()


def test_servers_that_are_away_are_waited_for(database: str, tmp_path: Path) -> None:
    """No broker, no database: it says so, tries again, and goes on when they come."""
    broker = Mosquitto(tmp_path / "mosquitto")
    away = database.replace(f":{urlsplit(database).port}/", f":{free_port()}/")
    with trying(away, broker.url, tmp_path / "no-database") as running:
        wait_for(lambda: (tmp_path / "no-database").read_text().count("trying again in") >= 2, 60, "two attempts")
        assert running.poll() is None
    assert "Traceback" not in (tmp_path / "no-database").read_text()
    with trying(database, broker.url, tmp_path / "no-broker") as running:
        wait_for(lambda: (tmp_path / "no-broker").read_text().count("trying again in") >= 2, 60, "two attempts")
        assert running.poll() is None
        with broker:
            sessions_held(database)
            with Gateway(broker.url) as gateway:
                gateway.cells(WND, [event(1)])
            wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 1, 60, "stored")
    assert "Traceback" not in (tmp_path / "no-broker").read_text()


@pytest.mark.parametrize("broker", ["mqtt://no-such-host.invalid", "mqtts://no-such-host.invalid"])
def test_a_host_that_is_unknown_is_named(database: str, broker: str, tmp_path: Path) -> None:
    """Names come and go with their services, so this is waited for; the line says which name it is."""
    with trying(database, broker, tmp_path / "log") as running:
        wait_for(lambda: (tmp_path / "log").read_text().count("trying again in") >= 2, 60, "two attempts")
        assert running.poll() is None
    assert "no-such-host.invalid" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_role_that_may_not_write(database: str, embedded_broker: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS looker")
        connection.execute("CREATE ROLE looker LOGIN PASSWORD 'looks'")
    parts = urlsplit(database)
    line = refused(database.replace(f"mes:{parts.password}@", "looker:looks@"), embedded_broker)
    assert re.search(r"role looker: permission denied for \w+ mes\w*; use a role that may", line)
