"""The broker of deploy/mosquitto: who is let in, who may say and hear what, how long and how much, and that who is refused notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest

from mes import contract
from mes import pki as certificates
from mes.broker import Publisher, Session
from mes.contract import Committed, encode
from mes.embedded import process
from mes.errors import Refused, Unavailable
from mes.seeds import load_plant
from mes.store.seed import seed
from mes.tls import Credentials
from simulators.connection import BrokerUrl, Client, Connection
from simulators.gateway import Gateway
from simulators.journal import Journal
from simulators.machine import Machine
from tests import pki
from tests.deployed import Deployed, Peer, run
from tests.pipeline import WND, event, service, sessions_held, value
from tests.pki import LINE, MACHINE, OTHER
from tests.plants import small_lines
from tests.servers import Mosquitto, accepts, free_port, stopped_at_the_end, wait_for

ROOT = Path(__file__).resolve().parents[2]
KPI = contract.kpi_topic("nanjing", "cells", "32140-1", "throughput_day")
ALERT = KPI.replace("_kpi_v1", "_alert_v1")


def topic(machine: str, kind: str = "cell") -> str:
    site, area, line, station, code = machine.split("/")
    return contract.machine_topic(site, area, line, station, code, kind)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """With one machine (wnd/05) whose certificate is revoked; a copy of it is at large as `stolen`."""
    mosquitto = Deployed(tmp_path_factory.mktemp("deployed"))
    for suffix in (".crt", ".key"):
        shutil.copy(mosquitto.pki / f"machines/{LINE}/wnd/05{suffix}", mosquitto.pki / f"stolen{suffix}")
    certificates.revoke(mosquitto.pki, f"machines/{LINE}/wnd/05")
    with mosquitto:
        yield mosquitto


@pytest.fixture
def backend(broker: Deployed, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """The broker, to clients of the backend: its certificate is in the environment."""
    for name, text in broker.backend().items():
        monkeypatch.setenv(name, text)
    return broker


def url_of(broker: Deployed, place: str) -> BrokerUrl:
    return replace(BrokerUrl.parse(broker.url), credentials=pki.credentials(broker.pki, place))


def machine(folder: Path, at: str, n: int, size: int = 0, **options: float) -> Machine:
    """A machine with n events in its journal, of `size` bytes each."""
    made = Machine(at, Journal(folder / at.replace("/", "-"), 1, "never"), jitter=lambda: 1.0, **options)  # type: ignore[arg-type]
    lines = [encode(event(seq)) for seq in range(1, n + 1)]
    if size:
        lines = [line[:-1] + b" " * (size - len(line)) + line[-1:] for line in lines]
    made.append(b"".join(line + b"\n" for line in lines), 1, n)
    return made


async def until(condition, what: str, seconds: float = 60):  # type: ignore[no-untyped-def]
    await asyncio.to_thread(wait_for, condition, seconds, what)


@contextlib.asynccontextmanager
async def serving(gateway: Gateway):  # type: ignore[no-untyped-def]
    task = asyncio.create_task(gateway.serve())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


# --- the whole way ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [f"gateways/{LINE}", None])
def test_from_the_machines_to_the_dashboard_and_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    """linesim -> broker -> ingest -> marks back; rollup -> dashboard: each with its own certificate; the line's, or one a machine."""
    plant = small_lines(tmp_path / "seeds", 100.0)
    seed(database, load_plant(plant))
    truth = tmp_path / "truth.json"
    with Deployed(tmp_path / "broker", plant) as broker:
        for name, text in broker.backend().items():
            monkeypatch.setenv(name, text)
        with service("ingest", database, broker.backend_url), service("rollup", database, broker.backend_url):
            sessions_held(database)
            words = ["run", "--line", "nanjing", "--seeds", str(plant), "--start", "2026-11-10", "--speed", "max", "--progress", "json"]
            if place:
                environment = pki.environment(pki.credentials(broker.pki, place))
            else:
                environment, words = {}, [*words, "--certificates", str(broker.pki)]
            done = run(
                [sys.executable, "-m", "simulators", *words, "--ledger", str(truth)], {"MES_BROKER_URL": broker.url, **environment}, 300
            )
            assert done.returncode == 0, done.stderr
            assert "takes packets of at most 4,608 bytes" in done.stderr
            ledger = contract.msgspec.json.decode(truth.read_bytes())
            stations = [station for day in ledger["days"].values() for station in day["stations"].values()]
            events = sum(station[result] for station in stations for result in contract.RESULTS)
            assert value(database, "SELECT count(*) FROM mes.cell_event") == events > 1000
            good = sum(day["good"] for day in ledger["days"].values())
            wait_for(lambda: value(database, "SELECT sum(good) FROM report.daily_throughput") == good, 60, "figures")

            async def figure() -> bytes:
                async with Peer(broker, "dashboards/dashboard") as dashboard:
                    await dashboard.subscribe("umh/v1/cbak/+/+/+/_kpi_v1/#", 1)
                    async with asyncio.timeout(30):
                        async for message in dashboard.messages:
                            if str(message.topic) == KPI:
                                return bytes(message.payload)
                raise AssertionError

            assert b'"production_day"' in asyncio.run(figure())
    if place is None:
        clients = {line.split(" as ")[1].split(" ")[0] for line in (tmp_path / "broker/log").read_text().splitlines() if " as " in line}
        assert {name for name in clients if name.startswith(LINE)} == {
            f"{LINE}/{s}/0{n}" for s in ("wnd", "asm", "pck") for n in range(1, 5)
        }


# --- who is let in ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers(broker: Deployed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Credentials]:
    """Clients that are not to be let in where machines are."""
    foreign = pki.made(tmp_path_factory.mktemp("foreign"))
    at = f"machines/{MACHINE}"
    late = f"machines/{LINE}/wnd/04"
    pki.expired(broker.pki, late)
    return {
        "no certificate": pki.credentials(broker.pki, None),
        "foreign authority": pki.credentials(foreign, at, trust=broker.pki),
        "expired": pki.credentials(broker.pki, late),
        "revoked": pki.credentials(broker.pki, "stolen"),
        "backend at the machines' door": pki.credentials(broker.pki, "backend"),
    }


SAYS = {
    "no certificate": "it wants a certificate: set MES_BROKER_CERT and MES_BROKER_KEY",
    "foreign authority": "it does not know the authority that signed MES_BROKER_CERT",
    "expired": "it says that MES_BROKER_CERT has expired: renew it",
    "revoked": "it says that MES_BROKER_CERT is revoked: take another one",
    "backend at the machines' door": "it does not know the authority that signed MES_BROKER_CERT",
}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not look at their own certificate first."""
    monkeypatch.setattr("mes.tls._check", lambda *_, **__: None)


@pytest.mark.parametrize("who", SAYS)
def test_who_is_not_let_in_is_told_why_in_one_line(
    broker: Deployed, strangers: dict[str, Credentials], who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    """The gateway, ingest's session and the publisher of figures, each of them."""
    for name, text in pki.environment(strangers[who]).items():
        monkeypatch.setenv(name, text)

    async def session() -> None:
        async with Session(broker.url, "stranger", ["x"]) as one:
            await one.receive()

    def gateway() -> Gateway:
        return Gateway(BrokerUrl.parse(broker.url), "stranger", [machine(tmp_path / "journal", WND, 1)], say=lambda _: None)

    for attempt in (session, lambda: Publisher(broker.url, "stranger").run(), lambda: gateway().serve()):
        with pytest.raises(Refused) as why:
            asyncio.run(asyncio.wait_for(attempt(), 60))
        assert str(why.value).startswith(f"broker {broker.url}: TLS: {SAYS[who]}")
        assert "\n" not in str(why.value)


@pytest.mark.parametrize("who", [who for who in SAYS if who != "expired"])
def test_programs_that_are_not_let_in_end_with_2_and_the_reason(
    broker: Deployed, strangers: dict[str, Credentials], who: str, database: str, tmp_path: Path
) -> None:
    environment = {"MES_BROKER_URL": broker.url, "MES_DATABASE_URL": database, **pki.environment(strangers[who])}
    for words in (["mes", "ingest"], ["simulators", "run", "--line", "nanjing", "--seeds", str(pki.SEEDS), "--progress", "none"]):
        done = run([sys.executable, "-m", *words], environment)
        assert done.returncode == 2, done.stderr
        assert SAYS[who] in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_machine_is_not_let_in_where_the_backend_is(broker: Deployed) -> None:
    url = replace(BrokerUrl.parse(broker.backend_url), credentials=pki.credentials(broker.pki, f"machines/{MACHINE}"))
    with pytest.raises(Refused, match="it does not know the authority that signed MES_BROKER_CERT"):
        asyncio.run(Gateway(url, "x", []).serve())


def test_a_connection_without_tls_is_closed_and_said(broker: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = broker.url.replace("mqtts", "mqtt")
    said: list[str] = []

    async def gateway() -> None:
        async with serving(Gateway(BrokerUrl.parse(url), "plain", [machine(tmp_path, WND, 1)], say=said.append)):
            await until(lambda: said, "said")

    asyncio.run(gateway())
    assert "the broker closed the connection before it answered: does this port want TLS (mqtts://)?" in said[0]

    async def session() -> None:
        async with Session(url, "plain", ["x"]):
            pass

    with pytest.raises(Unavailable, match=r"does this port want TLS \(mqtts://\)\?"):
        asyncio.run(session())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho forgets to close the socket
def test_a_broker_that_is_not_ours_is_refused(broker: Deployed, tmp_path: Path) -> None:
    foreign = pki.made(tmp_path / "foreign")
    url = replace(BrokerUrl.parse(broker.url), credentials=pki.credentials(broker.pki, f"machines/{MACHINE}", trust=foreign))
    with pytest.raises(Refused, match=r"its certificate is not trusted \(.*\): set MES_BROKER_CA to the certificate of its authority"):
        asyncio.run(Gateway(url, "x", []).serve())
    gc.collect()


# --- who may say and hear what ---------------------------------------------------------------------------------------------

GATEWAY = f"gateways/{LINE}"
AT = f"machines/{MACHINE}"
DENIED = 135


@pytest.mark.parametrize(
    ("place", "at", "allowed"),
    [
        (AT, topic(MACHINE), True),
        (AT, topic(MACHINE, "state"), True),
        (AT, topic(OTHER), False),
        (AT, topic(OTHER, "state"), False),
        (AT, topic(MACHINE, "ledger"), False),
        (AT, KPI, False),
        (AT, ALERT, False),
        (AT, contract.holder_topic("nanjing", "cells", "32140-1"), False),
        (AT, "mes/doctor/x", False),
        (AT, "somewhere/else", False),
        (AT, "$SYS/broker/uptime", False),
        (GATEWAY, topic(MACHINE), True),
        (GATEWAY, topic(f"{LINE}/grd/07"), True),
        (GATEWAY, topic(OTHER, "state"), True),
        (GATEWAY, topic("dalian/cells/26650-1/wnd/01"), False),
        (GATEWAY, topic(MACHINE, "ledger"), False),
        (GATEWAY, KPI, False),
        ("dashboards/dashboard", topic(MACHINE), False),
        ("dashboards/dashboard", KPI, False),
        ("dashboards/dashboard", ALERT, False),
        ("backend", topic(MACHINE), False),
        ("backend", topic(MACHINE, "state"), False),
        ("backend", topic(MACHINE, "ledger"), True),
        ("backend", KPI, True),
        ("backend", ALERT, True),
        ("backend", contract.holder_topic("nanjing", "cells", "32140-1"), True),
        ("backend", "mes/doctor/x", True),
        ("backend", "somewhere/else", False),
    ],
)
def test_each_may_publish_on_its_own_topics_and_on_no_other(broker: Deployed, place: str, at: str, allowed: bool) -> None:
    async def attempt() -> int:
        code = -1
        while code == -1:  # Mosquitto hangs up behind a refusal, and may take its answer along
            with contextlib.suppress(aiomqtt.MqttError):
                async with Peer(broker, place, identifier="says") as client:
                    code = await client.publish_to(at, b"{}")
        return code

    assert asyncio.run(asyncio.wait_for(attempt(), 60)) in ((0, 16) if allowed else (DENIED,))  # 16: nobody subscribes to it


def test_each_hears_what_is_meant_for_it_and_nothing_else(broker: Deployed) -> None:
    """Mosquitto grants every subscription; what may not be read does not come."""
    dalian = topic("dalian/cells/26650-1/wnd/01")
    said = [topic(MACHINE, "ledger"), topic(OTHER, "ledger"), dalian.replace("_cell_v1/completed", "_ledger_v1/committed")]
    said += [KPI, ALERT, contract.holder_topic("nanjing", "cells", "32140-1"), "mes/doctor/x"]
    may_hear = {
        AT: {topic(MACHINE, "ledger")},
        f"machines/{OTHER}": {topic(OTHER, "ledger")},
        GATEWAY: {topic(MACHINE, "ledger"), topic(OTHER, "ledger")},
        "dashboards/dashboard": {KPI, ALERT},
        "backend": {*said, dalian},
    }
    heard: dict[str, list[str]] = {place: [] for place in may_hear}

    async def listen(place: str, client: Peer) -> None:
        async for message in client.messages:
            heard[place].append(str(message.topic))

    async def attempt() -> None:
        async with contextlib.AsyncExitStack() as stack:
            speaker = await stack.enter_async_context(Peer(broker, "backend", identifier="speaks"))
            far = await stack.enter_async_context(Peer(broker, "gateways/dalian/cells/26650-1"))
            listening = []
            for place in may_hear:
                client = await stack.enter_async_context(Peer(broker, place, identifier=place))
                listening.append(asyncio.create_task(listen(place, client)))
                await client.subscribe([("#", 1), ("$SYS/#", 1), *((at, 1) for at in (*said, dalian))])
            await far.publish_to(dalian, b"{}")
            for _ in range(2):  # what comes of the second round comes behind all of the first
                for at in said:
                    assert await speaker.publish_to(at, b"{}") == 0
            await until(lambda: all(heard[place].count(next(iter(may_hear[place] - {dalian}))) >= 2 for place in may_hear), "all hear")
            for task in listening:
                task.cancel()

    asyncio.run(attempt())
    assert {place: {at for at in heard[place] if not at.startswith("$SYS/")} for place in heard} == may_hear
    system = {place: {at for at in heard[place] if at.startswith("$SYS/")} for place in heard}
    assert system.pop("backend") > {"$SYS/broker/uptime", "$SYS/broker/version"}
    assert system == {AT: set(), f"machines/{OTHER}": set(), GATEWAY: set(), "dashboards/dashboard": {"$SYS/broker/uptime"}}


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311])
def test_nobody_can_take_the_session_of_ingest_and_what_waits_in_it(backend: Deployed, version: aiomqtt.ProtocolVersion) -> None:
    """Without `use_username_as_clientid` this empties its queue."""
    broker, name = backend, f"mes-ingest-{version}"

    async def attempt() -> list[bytes]:
        async with Session(broker.backend_url, name, [topic(MACHINE)]) as session:
            await asyncio.wait_for(session.established.wait(), 30)
        async with Peer(broker, AT) as client:
            assert await client.publish_to(topic(MACHINE), b"waits") == 0
        clean = {"clean_start": True} if version == aiomqtt.ProtocolVersion.V5 else {"clean_session": True}
        async with Peer(broker, f"machines/{OTHER}", version, identifier=name, **clean) as thief:
            await thief.subscribe(topic(MACHINE), 1)
        async with Session(broker.backend_url, name, [topic(MACHINE)]) as session, asyncio.timeout(30):
            messages = await session.receive()
            session.ack(messages)
            return [message.payload for message in messages]

    assert asyncio.run(attempt()) == [b"waits"]


# --- refusals that the publisher notices --------------------------------------------------------------------------------------


def test_who_publishes_on_the_topic_of_another_is_told_and_its_own_go_on(backend: Deployed, tmp_path: Path) -> None:
    said: list[str] = []

    async def attempt() -> None:
        async with Session(backend.backend_url, "hears-all", [topic(MACHINE), topic(OTHER)], clean=True):
            mine, others = machine(tmp_path, topic(MACHINE), 5), machine(tmp_path, topic(OTHER), 3)
            gateway = Gateway(url_of(backend, AT), "x", [others, mine], marks=False, say=said.append)
            async with serving(gateway):
                await until(lambda: gateway.committed == 5, "its own events")
            assert gateway.refused >= 1
            assert (mine.uncommitted, others.uncommitted) == (0, 3)

    asyncio.run(attempt())
    refusals = [text for text in said if "not authorised" in text]
    assert refusals == [f"broker {backend.url} does not take {topic(OTHER)} (not authorised): kept in the journal, to be sent again"]


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways speak MQTT 3.1.1, as to a broker that knows no other."""
    before = Connection.__init__

    def begin(self: Connection, *args: object) -> None:
        before(self, *args)  # type: ignore[arg-type]
        self._version = 4

    monkeypatch.setattr(Connection, "__init__", begin)


def test_without_reason_codes_the_marks_that_do_not_come_tell(backend: Deployed, tmp_path: Path, old: None) -> None:
    """The broker acknowledges to MQTT 3.1.1 clients what it drops, and hangs up."""
    said: list[str] = []

    async def attempt() -> None:
        gateway = Gateway(url_of(backend, AT), "x", [machine(tmp_path, topic(OTHER), 3)], unmarked_s=2.0, say=said.append)
        async with serving(gateway):
            await until(lambda: gateway.unmarked == 1, "noticed")
            connections = backend.count("New client connected")
            assert gateway.acked > 0
            assert gateway.uncommitted == 3
            await asyncio.sleep(5)
            assert gateway.unmarked == 1
            assert backend.count("New client connected") - connections <= 3  # it does not try again at once for ever

    asyncio.run(attempt())
    assert [text.split(" was ")[0] for text in said if "committed" in text] == [
        f"nothing that broker {backend.url} has taken from {topic(OTHER)}"
    ]
    assert sum("has ended the connection" in text for text in said) == 1


# --- how long a message may be --------------------------------------------------------------------------------------------------


def marking(broker: Deployed, at: str, n: int):  # type: ignore[no-untyped-def]
    """Receive n events of a machine as ingest would, and mark them; yields the sizes of the messages."""

    async def receive() -> list[int]:
        sizes, seqs = [], set()
        async with Session(broker.backend_url, f"marks-{at}", [at], clean=True) as session, Peer(broker, "backend", identifier="m") as tell:
            ready.set()
            while len(seqs) < n:
                messages = await session.receive()
                session.ack(messages)
                for message in messages:
                    sizes.append(len(message.payload))
                    found = contract.msgspec.json.decode(message.payload)
                    seqs |= {one["seq"] for one in (found if isinstance(found, list) else [found])}
            assert seqs == set(range(1, n + 1))
            await tell.publish_to(at.replace("_cell_v1/completed", "_ledger_v1/committed"), encode(Committed(1, n)))
        return sizes

    ready = asyncio.Event()
    return asyncio.create_task(receive()), ready


def test_a_backlog_goes_in_arrays_that_the_broker_takes(backend: Deployed, tmp_path: Path) -> None:
    said: list[str] = []

    async def attempt() -> list[int]:
        receiving, ready = marking(backend, topic(MACHINE), 300)
        await asyncio.wait_for(ready.wait(), 30)
        gateway = Gateway(url_of(backend, AT), "x", [machine(tmp_path, topic(MACHINE), 300)], say=said.append)
        async with serving(gateway):
            await until(lambda: gateway.uncommitted == 0, "committed")
        return await receiving

    sizes = asyncio.run(attempt())
    assert 5 < len(sizes) < 40
    assert max(sizes) > 4000
    assert said == [f"broker {backend.url} takes packets of at most 4,608 bytes: backlogs go in arrays that fit"]


def test_an_event_of_the_longest_kind_gets_through_and_a_longer_one_is_named_and_kept(backend: Deployed, tmp_path: Path) -> None:
    said: list[str] = []

    async def attempt() -> None:
        receiving, ready = marking(backend, topic(MACHINE), 3)
        await asyncio.wait_for(ready.wait(), 30)
        longest, longer = machine(tmp_path, topic(MACHINE), 3, contract.MAX_EVENT_BYTES), machine(tmp_path, topic(OTHER), 3, 4700)
        gateway = Gateway(url_of(backend, GATEWAY), "x", [longer, longest], say=said.append)
        async with serving(gateway):
            await until(lambda: longest.uncommitted == 0, "committed")
            await asyncio.sleep(1)
            assert longer.uncommitted == 3
        assert await receiving == [4096] * 3

    before = backend.count("oversize")
    asyncio.run(attempt())
    (text,) = said[1:]
    assert text.startswith(f"broker {backend.url} does not take an event of 4,700 bytes from {topic(OTHER)}: raise its limit")
    assert text.endswith("it is kept in the journal, and so is what follows it")
    assert backend.count("oversize") == before  # what the broker has told is not tried


@pytest.mark.parametrize("version", [5, 4])
def test_a_broker_that_hangs_up_on_long_messages_gets_shorter_ones(
    backend: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, request: pytest.FixtureRequest
) -> None:
    """One that says "packet too large" without having told its limit, and one that just hangs up, as MQTT 3.1.1 has no word for it."""
    if version == 4:
        request.getfixturevalue("old")
    monkeypatch.setattr(Client, "_on_connect", aiomqtt.Client._on_connect)

    async def attempt(number: int) -> tuple[list[int], list[str]]:
        said: list[str] = []
        receiving, ready = marking(backend, topic(MACHINE), 300)
        await asyncio.wait_for(ready.wait(), 30)
        gateway = Gateway(url_of(backend, AT), "x", [machine(tmp_path / str(number), topic(MACHINE), 300)], say=said.append)
        async with serving(gateway):
            await until(lambda: gateway.uncommitted == 0, "committed")
        return await receiving, said

    hung_up: list[int] = []
    while len(hung_up) < 4 and 1 not in hung_up:  # a connection that is reset while something is written loses the broker's last word
        before = backend.count("oversize")
        sizes, said = asyncio.run(attempt(len(hung_up)))
        assert max(sizes) <= contract.MAX_EVENT_BYTES
        assert sum("from now on messages have at most 4,096" in text for text in said) == 1
        hung_up.append(backend.count("oversize") - before)
    assert max(hung_up) <= 2
    assert (1 in hung_up) == (version == 5), hung_up


@pytest.mark.parametrize(("limit", "size"), [(4608, 4700), (1000, 2000)])
def test_an_event_that_the_broker_hangs_up_on_is_named_once_and_not_sent_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, size: int
) -> None:
    """One that is too long for the contract, and one that is too long for a broker of little patience."""
    monkeypatch.setattr(Client, "_on_connect", aiomqtt.Client._on_connect)
    said: list[str] = []

    async def attempt(broker: Deployed) -> None:
        for name, text in broker.backend().items():
            monkeypatch.setenv(name, text)
        receiving, ready = marking(broker, topic(MACHINE), 3)
        await asyncio.wait_for(ready.wait(), 30)
        longer, short = machine(tmp_path, topic(OTHER), 1, size), machine(tmp_path, topic(MACHINE), 3)
        gateway = Gateway(url_of(broker, GATEWAY), "x", [longer, short], say=said.append)
        async with serving(gateway):
            await until(lambda: short.uncommitted == 0, "committed")
            await asyncio.sleep(3)
        await receiving

    with Deployed(tmp_path / "broker", changes=[("max_packet_size 4608", f"max_packet_size {limit}")]) as broker:
        asyncio.run(attempt(broker))
        assert 1 <= broker.count("oversize") <= 2
    assert sum(f"does not take an event of {size:,} bytes" in text for text in said) == 1


def test_a_file_with_a_message_that_is_too_long_is_refused(backend: Deployed, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    long = encode(event(1)).replace(b'"cycle_s"', b" " * 5000 + b'"cycle_s"')
    file.write_bytes(b'{"topic":"%s","event":%s}\n' % (topic(MACHINE).encode(), long))
    words = [sys.executable, "-m", "simulators", "run", "--from", str(file), "--speed", "max", "--progress", "none"]
    done = run(words, {"MES_BROKER_URL": backend.url, **pki.environment(pki.credentials(backend.pki, AT))})
    assert done.returncode == 2, done.stderr
    assert f"bytes of {topic(MACHINE)}, and {file} holds a message of 5" in done.stderr
    assert done.stderr.strip().endswith("raise its limit of the packet size")


# --- how much ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "arrive"),
    [
        ([], 8000),
        ([("max_queued_messages 0", "max_queued_messages 1000"), ("max_inflight_messages 0", "max_inflight_messages 20")], 1000),
    ],
)
def test_what_is_acknowledged_behind_a_session_that_is_away_arrives_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: list[tuple[str, str]], arrive: int
) -> None:
    """8,000 messages; with Mosquitto's own caps the rest of them is acknowledged and gone."""
    n, codes = 8000, []

    async def attempt(broker: Deployed) -> int:
        for name, text in broker.backend().items():
            monkeypatch.setenv(name, text)
        async with Session(broker.backend_url, "away", [topic(MACHINE)]) as session:
            await asyncio.wait_for(session.established.wait(), 30)
        async with Peer(broker, AT, max_inflight_messages=1000) as client:
            for seq in range(1, n + 1):
                client.send(topic(MACHINE), encode(event(seq)), codes.append)
            await until(lambda: len(codes) == n, "acknowledged")
        assert set(codes) == {0}
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        seqs = set()
        async with Session(broker.backend_url, "away", [topic(MACHINE)]) as session:
            with contextlib.suppress(TimeoutError):
                while len(seqs) < n:
                    async with asyncio.timeout(30 if len(seqs) < arrive else 2):
                        messages = await session.receive()
                    session.ack(messages)
                    seqs |= {contract.msgspec.json.decode(message.payload)["seq"] for message in messages}
        return len(seqs)

    with Deployed(tmp_path, changes=change) as broker:
        assert asyncio.run(attempt(broker)) == arrive


# --- other ways -------------------------------------------------------------------------------------------------------------------


def test_a_list_of_what_is_revoked_is_taken_up_while_the_broker_runs(tmp_path: Path) -> None:
    async def attempt(broker: Deployed) -> None:
        async with Peer(broker, AT) as client:
            assert await client.publish_to(topic(MACHINE), b"{}") == 16
        kept = [(path, path.read_bytes()) for path in (broker.pki / f"{AT}.crt", broker.pki / f"{AT}.key")]
        certificates.revoke(broker.pki, AT)
        for path, data in kept:
            path.write_bytes(data)
        assert broker.process
        broker.process.send_signal(signal.SIGHUP)
        gateway = Gateway(url_of(broker, AT), "x", [], marks=False, say=lambda _: None)
        with pytest.raises(Refused, match="MES_BROKER_CERT is revoked"):
            await refused_in_the_end(gateway)
        async with Peer(broker, f"machines/{OTHER}") as client:
            assert await client.publish_to(topic(OTHER), b"{}") == 16

    async def refused_in_the_end(gateway: Gateway) -> None:
        for _ in range(100):  # until the broker has come to the signal
            await asyncio.wait({task := asyncio.create_task(gateway.serve())}, timeout=0.5)
            if task.done():
                task.result()
            task.cancel()
            await asyncio.wait({task})

    with Deployed(tmp_path) as broker:
        asyncio.run(attempt(broker))


def test_a_machine_without_a_certificate_is_named_before_anything_is_sent(broker: Deployed) -> None:
    words = ["run", "--line", "nanjing", "--seeds", str(pki.SEEDS), "--certificates", str(broker.pki), "--progress", "none"]
    done = run([sys.executable, "-m", "simulators", *words], {"MES_BROKER_URL": broker.url})
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"linesim: --certificates {broker.pki}: there is no machines/{LINE}/")
    assert last.endswith(f"make it with `mes pki --out {broker.pki}`")


def test_nats_takes_the_same_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives a name its rights by `verify_and_map`, and tells who publishes elsewhere nothing: it speaks MQTT 3.1.1."""
    folder, port = pki.made(tmp_path / "pki"), free_port()
    (tmp_path / "nats.conf").write_text(
        f"""
server_name: "x"
host: "127.0.0.1"
port: -1
jetstream {{ store_dir: "{tmp_path}/store" }}
mqtt {{
  host: "127.0.0.1", port: {port}
  tls {{
    cert_file: "{folder}/server/broker.crt", key_file: "{folder}/server/broker.key", ca_file: "{folder}/ca/plant.crt"
    verify_and_map: true
  }}
}}
authorization {{ users: [
  {{ user: "CN={MACHINE}", permissions: {{ publish: "umh.v1.cbak.{MACHINE.replace("/", ".")}._cell_v1.completed" }} }}
  {{ user: "CN=dashboard" }}
] }}
"""
    )
    url = BrokerUrl.parse(f"mqtts://127.0.0.1:{port}")
    said: list[str] = []

    async def attempt() -> None:
        own = Gateway(replace(url, credentials=pki.credentials(folder, AT)), "own", [machine(tmp_path, topic(MACHINE), 5)], marks=False)
        async with Session(str(url), "hears", [topic(MACHINE), topic(OTHER)], clean=True) as session:
            async with serving(own):
                await until(lambda: own.uncommitted == 0, "acknowledged")
            other = machine(tmp_path, topic(OTHER), 5)
            gateway = Gateway(replace(url, credentials=pki.credentials(folder, AT)), "other", [other], unmarked_s=1.0, say=said.append)
            async with serving(gateway):
                await until(lambda: gateway.unmarked == 1, "noticed")
            assert {message.topic for message in await session.receive()} == {topic(MACHINE)}
        for stranger, says in ((None, "it wants a certificate"), (f"machines/{OTHER}", "refuses the certificate")):
            with pytest.raises(Refused, match=says):
                await Gateway(replace(url, credentials=pki.credentials(folder, stranger)), "x", []).serve()

    for name, text in pki.environment(pki.credentials(folder, "dashboards/dashboard")).items():
        monkeypatch.setenv(name, text)
    program = process.program("nats-server", "MES_BROKER_URL")
    server = subprocess.Popen([program, "-c", tmp_path / "nats.conf"], stderr=subprocess.DEVNULL)
    with stopped_at_the_end(server):
        wait_for(lambda: accepts(port), what="NATS")
        asyncio.run(attempt())
    assert len(said) == 1


# --- what the administrator types ---------------------------------------------------------------------------------------------------

README = (ROOT / "deploy/mosquitto/README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- block: (\w+) -->\n```sh\n(.*?)```", README, re.DOTALL))


def test_what_the_readme_says_puts_a_broker_in_place(tmp_path: Path) -> None:
    """As root with the owner that it says, else without."""
    plant = small_lines(tmp_path / "seeds", 100.0)
    assert README.count("```sh") == len(BLOCKS) == 2
    here = tmp_path / "etc"
    here.mkdir()
    port, other = free_port(), free_port()
    program = Mosquitto(tmp_path / "unused").program
    commands = "".join(BLOCKS.values()).replace("/etc/mosquitto", str(here)).replace("deploy/mosquitto", str(ROOT / "deploy/mosquitto"))
    commands = commands.replace("--host broker.plant", "--host localhost --host 127.0.0.1").replace(
        "mes pki", f"{sys.executable} -m mes pki"
    )
    if os.getuid() != 0:
        commands = commands.replace(" -g mosquitto", "")
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert plant.is_dir()
    store = tmp_path / "store"
    store.mkdir()
    settings = here / "mosquitto.conf"
    text = settings.read_text()
    for old, new in (
        ("/etc/mosquitto", str(here)),
        ("/var/lib/mosquitto", str(store)),
        ("listener 8883", f"listener {port} 127.0.0.1"),
        ("listener 8884", f"listener {other} 127.0.0.1"),
    ):
        text = text.replace(old, new)
    settings.write_text(text)
    if os.getuid() == 0:  # it becomes the user mosquitto, who has to reach its files
        for folder in (tmp_path, *tmp_path.parents):
            if str(folder).startswith(("/tmp/", "/var/tmp/")):
                folder.chmod(folder.stat().st_mode | 0o011)
        shutil.chown(store, "mosquitto", "mosquitto")
    process = subprocess.Popen([program, "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # type: ignore[list-item]
    with stopped_at_the_end(process):
        wait_for(lambda: accepts(port) and accepts(other), what="Mosquitto")
        url = replace(BrokerUrl.parse(f"mqtts://127.0.0.1:{port}"), credentials=pki.credentials(tmp_path / "pki", AT))

        async def attempt() -> None:
            said: list[str] = []
            gateway = Gateway(url, "x", [machine(tmp_path, topic(MACHINE), 1)], say=said.append)
            async with serving(gateway):
                await until(lambda: gateway.refused, "an answer")
            assert "nobody subscribes to it" in said[-1]

        asyncio.run(attempt())
    assert (store / "mosquitto.db").exists()
