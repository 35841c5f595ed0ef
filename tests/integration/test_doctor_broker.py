"""`mes doctor` on brokers that are really set up wrong, and on who holds the lines' sessions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mes import contract, probe
from mes.doctor import broker as checks
from mes.doctor import clocks
from mes.doctor.finding import Finding, Level
from tests import pki
from tests.deployed import Deployed
from tests.diagnosis import diagnose, levels, one
from tests.integration.test_refusals import as_user, with_password
from tests.pipeline import Gateway, rows, service, sessions_held
from tests.servers import Mosquitto, shifted_clock, wait_for

NOTE, OK, PROBLEM, WARNING = Level.NOTE, Level.OK, Level.PROBLEM, Level.WARNING
LINE = "nanjing/cells/32140-1"
HOLDER = f"umh/v1/cbak/{LINE}/_ledger_v1/holder"


def tried(url: str, messages: int = probe.PROBE_MESSAGES) -> list[Finding]:
    return list(checks.tried(asyncio.run(probe.attempt(url, messages))))


def heard(url: str, seconds: float = 2.0, lines: frozenset[str] = frozenset()) -> probe.Heard:
    return asyncio.run(probe.listen(url, set(lines), seconds))


@contextlib.contextmanager
def left_nothing(url: str) -> Iterator[None]:
    """After a trial neither a retained message nor a session is left: Mosquitto tells how many there are."""
    yield
    counts: dict[str, int] = {}

    def counted() -> bool:
        with contextlib.suppress(Exception):
            counts.update(asyncio.run(_counts(url)))
        return counts.get("clients/disconnected") == 0 and counts.get("retained messages/count") == counts.get("of $SYS")

    wait_for(counted, 30, f"nothing left, but {counts}")


async def _counts(url: str) -> dict[str, int]:
    from mes.broker import Session

    found: dict[str, int] = {}
    filters = ["$SYS/broker/clients/disconnected", "$SYS/broker/retained messages/count", "$SYS/#"]
    topics: set[str] = set()
    async with Session(url, "counting", filters, clean=True) as session:
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(1.0):
                    messages = await session.receive()
                session.ack(messages)
                for message in messages:
                    if message.retain:
                        topics.add(message.topic)
                    if message.topic in filters:
                        found[message.topic.removeprefix("$SYS/broker/")] = int(message.payload)
    async with Session(url, "counting", ["#"], clean=True) as session:
        others = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                others = await session.receive()
    found["of $SYS"] = found["retained messages/count"] - len(others)
    return found


# --- what only a trial shows ---------------------------------------------------------------------------------------------


def test_mosquittos_own_queue_cap_is_found(tmp_path: Path) -> None:
    """As Debian ships it: 1,000 messages wait for a session, the rest is acknowledged and gone. Its own count says so, too."""
    with Mosquitto(tmp_path / "mosquitto", "max_queued_messages 1000\nmax_inflight_messages 20\nsys_interval 1\n") as broker:
        assert levels(list(checks.said(heard(broker.url))), "broker.dropped") == [OK]
        with left_nothing(broker.url):
            found = tried(broker.url)
        problem = one(found, "broker.queue_cap", PROBLEM)
        assert problem.found == "of 1,500 messages that were acknowledged for a session that was away, 1,000 arrived"
        assert "max_queued_messages 0" in problem.cure
        dropped = one(list(checks.said(heard(broker.url))), "broker.dropped", WARNING)
        assert "it has dropped 500 messages" in dropped.found


def test_a_broker_without_a_cap_passes_and_keeps_nothing_of_the_trial(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto", "sys_interval 1\n") as broker, left_nothing(broker.url):
        assert levels(tried(broker.url), "broker.queue_cap") == [OK]


def test_the_embedded_broker_passes(embedded_broker: str) -> None:
    found = tried(embedded_broker)
    assert levels(found, "broker.queue_cap") == [OK]
    assert levels(found, "broker.retained") == []
    said = list(checks.said(heard(embedded_broker)))
    assert "MQTT 3.1.1 only" in one(said, "broker.version", NOTE).found


def test_a_trial_that_is_not_permitted_is_said(tmp_path: Path) -> None:
    """Mosquitto's access list grants the subscription and delivers nothing."""
    (tmp_path / "acl").write_text("user mes\ntopic readwrite umh/#\ntopic read $SYS/#\n")
    (tmp_path / "acl").chmod(0o644)
    with with_password(tmp_path / "mosquitto", f"acl_file {tmp_path}/acl\nsys_interval 1\n") as broker:
        url = as_user(broker.url, "mes", "secret")
        with left_nothing(url):
            found = one(tried(url, 10), "broker.queue_cap", WARNING)
        assert "mes/doctor/#" in found.found
        assert "secret" not in found.found
        (tmp_path / "acl").write_text("user mes\ntopic readwrite umh/#\ntopic read $SYS/#\ntopic readwrite mes/doctor/#\n")
        broker.kill()
        broker.start()
        assert levels(tried(url), "broker.queue_cap") == [OK]


# --- what it says --------------------------------------------------------------------------------------------------------


def test_packets_that_are_too_short(tmp_path: Path) -> None:
    for most, level, words in ((2000, PROBLEM, "an event of 4096 bytes does not pass"), (4608, OK, "single events pass"), (0, None, "")):
        with Mosquitto(tmp_path / str(most), f"max_packet_size {most}\n" if most else "") as broker:
            said = list(checks.said(heard(broker.url)))
            assert levels(said, "broker.packet_size") == ([level] if level is not None else [])
            assert words in "".join(finding.found for finding in said)
            assert one(said, "broker.version", OK).found.startswith("mosquitto version 2.")


def test_a_broker_that_retains_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto", "retain_available false\n") as broker:
        assert "keeps no retained messages" in one(list(checks.said(heard(broker.url))), "broker.retained", PROBLEM).found


# --- who holds the sessions ------------------------------------------------------------------------------------------------


def test_lines_that_are_held_by_nobody_by_a_dead_worker_and_by_another_backend(database: str, mosquitto_of_mine: Mosquitto) -> None:
    url = mosquitto_of_mine.url
    found = diagnose(database, url)
    assert levels(found, "broker.sessions") == [PROBLEM] * 2
    assert levels(found, "lines.lease") == [PROBLEM] * 2
    assert "start `mes ingest`" in one(found, "lines.lease", PROBLEM, LINE).cure
    [(ours,)] = rows(database, "SELECT current_database() || ' (' || system_identifier || ', ' || installation_id || ')'"
                     " FROM mes.installation, pg_control_system()")  # fmt: skip
    with Gateway(url) as gateway:
        for name, word in ((ours, "was last heard"), ("another (1, 2)", "is taken by another backend")):
            holder = contract.Holder(name, "gone-1", time.time_ns() // 1_000_000 - 3_600_000)
            gateway.retain(HOLDER, msgspec.json.encode(holder))
            level = WARNING if name == ours else PROBLEM
            assert word in one(diagnose(database, url), "broker.sessions", level, LINE).found
        gateway.retain(HOLDER, b"nonsense")
    with service("ingest", database, url):
        sessions_held(database)
        found = diagnose(database, url)
        assert levels(found, "broker.sessions") == [OK]
        assert levels(found, "lines.lease") == [OK]
        assert levels(found, "clock.workers") == [OK] * 2
        assert levels(found, "broker.retained") == [OK]
        assert levels(found, "clock.broker") == [NOTE]


@pytest.mark.parametrize(("offset", "level", "said"), [("+8s", WARNING, "ahead"), ("-2h", PROBLEM, "2 h behind")])
def test_the_clock_of_a_worker_is_off(
    database: str, mosquitto_of_mine: Mosquitto, offset: str, level: Level, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mosquitto_of_mine.url
    for name, text in shifted_clock(offset).items():
        monkeypatch.setenv(name, text)
    with service("ingest", database, url):
        monkeypatch.undo()
        sessions_held(database)
        found = list(clocks.workers(heard(url, checks.LISTEN_S, frozenset({LINE}))))
    assert said in one(found, "clock.workers", level, LINE).found


def test_the_broker_of_a_plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files of deploy/mosquitto, as the backend, by whose rights all of it can be tried; certificates of 30 days are due."""
    with Deployed(tmp_path / "deployed") as broker:
        for setting, text in broker.backend().items():
            monkeypatch.setenv(setting, text)
        found = diagnose(None, broker.backend_url, try_queue=True)
        assert {f.name for f in found if f.level > NOTE} == {"tls.broker", "tls.client"}
        for name in ("broker.queue_cap", "broker.dropped", "broker.reachable", "broker.version", "tls.authority"):
            assert levels(found, name) == [OK]
        assert "4,608 bytes: single events pass" in one(found, "broker.packet_size", OK).found
        assert "is valid for 30 days" in one(found, "tls.broker", WARNING).found
        pki.expired(broker.pki, "backend")
        found = diagnose(None, broker.backend_url)
        assert "expired on 20" in one(found, "tls.client", PROBLEM, "MES_BROKER_CERT").found
        assert "expired on 20" in one(found, "broker.reachable", PROBLEM).found
        one(found, "tls.broker", WARNING)
