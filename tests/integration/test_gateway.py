"""The gateway against real brokers: what was acked and not marked is sent again on a new connection; a refusal is no publication."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mes.contract import Committed, encode
from simulators.connection import BrokerUrl
from simulators.gateway import Gateway
from simulators.journal import Journal
from simulators.machine import Machine
from tests.pipeline import WND, subscriber
from tests.pipeline import Gateway as Client
from tests.servers import Mosquitto, wait_for

NEVER = 1e9
ELSEWHERE = WND.replace("/nanjing/", "/elsewhere/")  # on a shared broker the session of the other tests' ingest would get it


def machine(folder: Path, n: int, topic: str = WND) -> Machine:
    made = Machine(topic, Journal(folder, 1, "never"), stall=NEVER, longest=NEVER)
    made.append(b"".join(b'{"boot":1,"seq":%d}\n' % seq for seq in range(1, n + 1)), 1, n)
    return made


@pytest.fixture(params=["embedded_broker", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def until(condition: object, what: str) -> None:
    await asyncio.to_thread(wait_for, condition, 30, what)


def test_a_retained_mark_is_known_before_anything_is_sent(broker: str, tmp_path: Path) -> None:
    topic = ELSEWHERE.replace("/01/", "/71/")
    with Client(broker) as client:
        client.retain(topic.replace("_cell_v1/completed", "_ledger_v1/committed"), encode(Committed(1, 7)))

    async def run() -> None:
        gateway = Gateway(BrokerUrl.parse(broker), "gateway-retained", [machine(tmp_path, 10, topic)])
        with subscriber(broker, topic) as seen:
            serving = asyncio.create_task(gateway.serve())
            await until(lambda: gateway.acked, "acknowledged")
            await asyncio.sleep(0.5)
            serving.cancel()
        assert gateway.published == 3
        assert [event["seq"] for event in seen[topic]] == [8, 9, 10]
        assert (gateway.committed, gateway.uncommitted) == (7, 3)

    asyncio.run(run())


def test_a_run_that_repeats_the_identities_of_another_is_told_so_once(broker: str, tmp_path: Path) -> None:
    said: list[str] = []

    async def run() -> None:
        machines = [machine(tmp_path / n, 3, ELSEWHERE.replace("/01/", f"/{n}/")) for n in ("81", "82")]
        with Client(broker) as client:
            for one in machines:
                client.retain(one.topic.replace("_cell_v1/completed", "_ledger_v1/committed"), encode(Committed(1, 7)))
        serving = asyncio.create_task(Gateway(BrokerUrl.parse(broker), "gateway-outrun", machines, say=said.append).serve())
        await until(lambda: said, "said")
        await asyncio.sleep(0.5)
        serving.cancel()

    asyncio.run(run())
    assert ["begin with --boot 2" in text for text in said] == [True]


def test_what_was_acked_and_not_marked_is_sent_again_on_a_new_connection(mosquitto_of_mine: Mosquitto, tmp_path: Path) -> None:
    broker = mosquitto_of_mine

    async def run() -> None:
        gateway = Gateway(BrokerUrl.parse(broker.url), "gateway-again", [machine(tmp_path, 10)], say=lambda _: None)
        with subscriber(broker.url, WND):
            serving = asyncio.create_task(gateway.serve())
            await until(lambda: gateway.acked == 10, "acknowledged")
            broker.kill()
        await asyncio.to_thread(broker.start)
        with subscriber(broker.url, WND) as seen:
            await until(lambda: WND in seen, "sent again")
            with Client(broker.url) as client:
                client.send([(WND.replace("_cell_v1/completed", "_ledger_v1/committed"), encode(Committed(1, 10)))])
            await until(lambda: gateway.uncommitted == 0, "marked")
        serving.cancel()
        assert gateway.sent_again >= 10

    asyncio.run(run())


@pytest.mark.parametrize("marks", [True, False])
def test_what_nobody_subscribes_to_is_not_published_and_said_once(mosquitto_of_mine: Mosquitto, tmp_path: Path, marks: bool) -> None:
    """MQTT 5 says so (reason code 16); without it the message would be gone."""
    said: list[str] = []

    async def run() -> None:
        gateway = Gateway(BrokerUrl.parse(mosquitto_of_mine.url), "gateway-16", [machine(tmp_path, 10)], marks=marks, say=said.append)
        serving = asyncio.create_task(gateway.serve())
        await until(lambda: gateway.refused == 10, "refused")
        assert (gateway.acked, gateway.uncommitted) == (0, 10)
        serving.cancel()

    asyncio.run(run())
    assert [WND in text and "nobody subscribes to it" in text for text in said] == [True]


def test_what_the_broker_does_not_permit_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text(f"topic read #\ntopic write {WND.replace('/01/', '/02/')}\n")
    (tmp_path / "acl").chmod(0o644)
    said: list[str] = []

    async def run(url: str) -> None:
        mine, allowed = machine(tmp_path / "a", 10), machine(tmp_path / "b", 5, WND.replace("/01/", "/02/"))
        gateway = Gateway(BrokerUrl.parse(url), "gateway-acl", [mine, allowed], marks=False, say=said.append)
        with subscriber(url, "umh/#"):
            serving = asyncio.create_task(gateway.serve())
            # Mosquitto 2.0.11 hangs up behind the refusal: the others must not wait for the one that is refused
            await until(lambda: gateway.committed == 5, "the other machine's events")
            assert gateway.refused
            serving.cancel()
        assert (mine.uncommitted, allowed.uncommitted) == (10, 0)

    with Mosquitto(tmp_path / "mosquitto", f"acl_file {tmp_path}/acl\n") as broker:
        asyncio.run(run(broker.url))
    assert [WND in text for text in said if "not authorised" in text] == [True]
