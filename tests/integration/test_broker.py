"""The session's promises against both brokers: acks only when told, a resumed session, bounded reading."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mes.broker import Message, Publisher, Session, _Client
from mes.errors import Refused, Unavailable
from tests.pipeline import Gateway, subscriber
from tests.servers import free_port, wait_for

_numbers = itertools.count(1)

READ = 256 << 10  # what asyncio reads at a time


@pytest.fixture(params=["embedded_broker", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def name() -> str:
    """A client id and topic of its own for each test."""
    return f"test-{next(_numbers)}"


async def taken(session: Session, n: int, seconds: float = 30.0) -> list[Message]:
    """The next n messages."""
    messages: list[Message] = []
    async with asyncio.timeout(seconds):
        while len(messages) < n:
            messages += await session.receive()
    return messages


def publish(broker: str, name: str, *payloads: bytes) -> None:
    with Gateway(broker) as gateway:
        gateway.send((f"{name}/t", payload) for payload in payloads)


def numbers(messages: list[Message]) -> list[int]:
    return [int(m.payload.split(b" ")[0]) for m in messages]


def test_what_is_not_acked_comes_again_and_what_is_acked_does_not(broker: str, name: str) -> None:
    async def first() -> None:
        async with Session(broker, name, [f"{name}/+"]) as session:
            await asyncio.wait_for(session.established.wait(), 10)
            await asyncio.to_thread(publish, broker, name, *(b"%d " % i for i in range(10)))
            messages = await taken(session, 10)
            assert numbers(messages) == list(range(10))
            session.ack(messages[:4])

    async def second() -> list[int]:
        async with Session(broker, name, [f"{name}/+"]) as session:
            assert session.established.is_set() or await asyncio.wait_for(session.established.wait(), 10)
            messages = await taken(session, 6)
            session.ack(messages)
            return numbers(messages)

    asyncio.run(first())
    assert sorted(asyncio.run(second())) == [4, 5, 6, 7, 8, 9]


def test_what_is_published_while_nobody_is_there_is_delivered(broker: str, name: str) -> None:
    async def session(n: int) -> list[int]:
        async with Session(broker, name, [f"{name}/+"]) as held:
            await asyncio.wait_for(held.established.wait(), 10)
            messages = await taken(held, n)
            held.ack(messages)
            return numbers(messages)

    assert asyncio.run(session(0)) == []
    publish(broker, name, *(b"%d " % i for i in range(300)))
    assert asyncio.run(session(300)) == list(range(300))


def test_reading_stops_where_nobody_takes_and_nothing_is_lost(broker: str, name: str) -> None:
    limit, size, n = 200_000, 4000, 400

    async def session() -> None:
        async with Session(broker, name, [f"{name}/+"], limit=limit) as held:
            await asyncio.wait_for(held.established.wait(), 10)
            await asyncio.to_thread(publish, broker, name, *(b"%d " % i + b"x" * size for i in range(n)))
            await asyncio.sleep(1.0)  # time enough to read all 1.6 MB, were reading not to stop
            assert limit < held._bytes <= limit + READ
            received: list[int] = []
            async with asyncio.timeout(60):
                while len(set(received)) < n:
                    messages = await held.receive(50_000)
                    assert held._bytes <= limit + READ
                    received += numbers(messages)
                    held.ack(messages)
            assert sorted(set(received)) == list(range(n))

    asyncio.run(session())


def test_a_lingering_receive_takes_company_along(broker: str, name: str) -> None:
    async def session() -> None:
        async with Session(broker, name, [f"{name}/+"]) as held:
            await asyncio.wait_for(held.established.wait(), 10)
            sending = asyncio.create_task(asyncio.to_thread(publish, broker, name, *(b"%d " % i for i in range(20))))
            messages = await held.receive(linger=2.0)
            assert numbers(messages) == list(range(20))
            held.ack(messages)
            await sending

    asyncio.run(session())


def test_publisher_keeps_the_last_value(broker: str, name: str) -> None:
    async def run() -> None:
        publisher = Publisher(broker, f"{name}-publisher")
        for n in range(50):
            publisher.set(f"{name}/figure", b"%d" % n)
        running = asyncio.create_task(publisher.run())
        with subscriber(broker, f"{name}/#") as topics:
            await asyncio.to_thread(wait_for, lambda: topics.get(f"{name}/figure") == 49, 10, "the last value")
            publisher.set(f"{name}/figure", b"50")
            await asyncio.to_thread(wait_for, lambda: topics.get(f"{name}/figure") == 50, 10, "a new value")
        running.cancel()

    asyncio.run(run())
    with subscriber(broker, f"{name}/#") as topics:  # retained
        wait_for(lambda: topics.get(f"{name}/figure") == 50, 10, "the retained value")


@pytest.fixture
def answering() -> Iterator[int]:
    """A port that answers CONNECT with "bad user name or password"."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(1024)
                link.sendall(b"\x20\x02\x00\x04")
                link.recv(1024)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


def test_a_publisher_that_is_cancelled_as_it_connects_ends(broker: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancellation comes with the CONNACK. It was forgotten in Python 3.11, and a service that was to end hung."""

    async def run() -> None:
        running = asyncio.create_task(Publisher(broker, name).run())

        def cancelled(self: _Client, *what: Any) -> None:
            connected(self, *what)
            running.cancel()

        connected = _Client._on_connect
        monkeypatch.setattr(_Client, "_on_connect", cancelled)
        done, _ = await asyncio.wait({running}, timeout=20)
        running.cancel()
        assert running in done
        assert running.cancelled()

    asyncio.run(run())


def test_a_broker_that_says_no_is_refused_and_one_that_is_away_is_unavailable(answering: int) -> None:
    async def connect(port: int) -> None:
        async with Session(f"mqtt://user:secret@127.0.0.1:{port}", "x", ["x/+"]):
            pass

    with pytest.raises(Refused, match="user name or password") as refused:
        asyncio.run(connect(answering))
    assert "secret" not in str(refused.value)
    with pytest.raises(Unavailable):
        asyncio.run(connect(free_port()))
