"""The only door to MQTT: persistent sessions that ack when told to (`mes.session`), and what publishes retained values.

Publishing is aiomqtt's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import aiomqtt

from mes.client import Client, code_of
from mes.errors import Refused, Unavailable
from mes.mqtt import Message
from mes.session import REFUSED_CODES, Address, Session, refused, said_plainly
from mes.settings import without_password
from mes.tasks import set_within

__all__ = ["Message", "Publisher", "Session", "answers", "introduced", "retained", "subscribed"]

log = logging.getLogger(__name__)

_AT_ONCE = 100  # retained values on their way
_HOLD_S = 60.0  # after which a topic that the broker refused is tried again
_QUIET_S = 0.2  # within which a broker delivers the next retained value, though it has answered already
_ANSWER_S = 10.0
_OLDER = (1, 132)  # reason codes of a broker that does not speak MQTT 5


class _Older(Refused):
    """The broker does not speak this version of MQTT."""


class _Client(Client):
    def __init__(self, url: str, **options: Any) -> None:
        at = Address.of(url)
        super().__init__(at.host, at.port, username=at.user, password=at.password, tls_context=at.tls(), **options)

    async def publish_all(self, values: list[tuple[str, bytes]], *, retain: bool = False) -> list[int | None]:
        """Publish values and wait for the broker's reason code of each; None where the connection ended before."""
        answers: list[asyncio.Future[int]] = []
        for topic, payload in values:
            answer = asyncio.get_running_loop().create_future()
            self.send(topic, payload, partial(_settle, answer), retain=retain)
            answers.append(answer)
        everything = asyncio.gather(*answers)
        await asyncio.wait((everything, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
        return [answer.result() if answer.done() else None for answer in answers]


def _settle(answer: asyncio.Future[int], code: int) -> None:
    if not answer.done():
        answer.set_result(code)


@contextlib.asynccontextmanager
async def connected(url: str, mqtt: _Client) -> AsyncIterator[_Client]:
    """Hold a connection; Refused if the broker says no, Unavailable if it does not answer or goes away."""
    where = f"broker {without_password(url)}"
    try:
        async with mqtt:
            if (task := asyncio.current_task()) and task.cancelling():  # wait_for of Python 3.11, which aiomqtt uses, may have forgotten it
                raise asyncio.CancelledError
            yield mqtt
    except aiomqtt.MqttError as why:
        code = code_of(why)
        if isinstance(why, aiomqtt.exceptions.MqttConnectError):
            if code in _OLDER:
                raise _Older(f"{where} speaks neither MQTT 5 nor 3.1.1: check MES_BROKER_URL") from why
            if code in REFUSED_CODES:
                raise refused(where, code) from why
        if (no := mqtt.refusal(why)) is not None:
            raise said_plainly(where, no) from why
        raise Unavailable(f"{where}: {why}") from why
    except (OSError, UnicodeError) as why:
        raise said_plainly(where, why) from why


class Publisher:
    """Keeps retained topics at their latest value: what matters is the last value, not each one.

    Every value is published again on each new connection, since a broker that died may have lost what it retained. A topic
    that the broker refuses is said so, once, and tried again after a minute.
    """

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self._client_id = client_id
        self._version = aiomqtt.ProtocolVersion.V5  # it knows reason codes
        self._values: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}
        self._held: dict[str, float] = {}  # refused topics, until when
        self._said: set[str] = set()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def set(self, topic: str, payload: bytes) -> None:
        """Publish `payload`, retained, as soon as may be; an older value of the topic that still waits is replaced.

        An empty payload takes the retained value away.
        """
        self._values[topic] = payload
        if topic not in self._held:
            self._waiting[topic] = payload
            self._some.set()
            self._none.clear()

    @property
    def waiting(self) -> int:
        """Values that the broker has not taken yet, those that it refuses too."""
        return len(self._waiting) + len(self._held)

    def forget(self) -> None:
        """Publish nothing of what was set, now or on a new connection: what the broker has retained stays."""
        for some in (self._values, self._waiting, self._held):
            some.clear()
        self._none.set()

    async def drained(self, within: float) -> bool:
        """Wait for at most so many seconds until the broker has answered for all values; whether it has."""
        return await set_within(self._none, within)

    async def run(self) -> None:
        """Publish until cancelled; a broker that is away is tried again with back-off, one that refuses raises Refused."""
        pause = 0.5
        while True:
            try:
                async with connected(self._url, _Client(self._url, identifier=self._client_id, protocol=self._version)) as mqtt:
                    pause = 0.5
                    self._waiting = {topic: payload for topic, payload in self._values.items() if topic not in self._held}
                    await self._drain(mqtt)
            except _Older:
                if self._version == aiomqtt.ProtocolVersion.V311:
                    raise
                self._version = aiomqtt.ProtocolVersion.V311
                continue
            except Unavailable as why:
                log.warning("%s; values wait, trying again in %.0f s", why, pause, extra={"retry_s": pause})
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)

    async def _drain(self, mqtt: _Client) -> None:
        while not mqtt.has_gone():
            while self._waiting and not mqtt.has_gone():
                some = list(itertools.islice(self._waiting.items(), _AT_ONCE))
                for (topic, payload), code in zip(some, await mqtt.publish_all(some, retain=True), strict=True):
                    if code is not None and code >= 128:
                        self._hold(topic, code)
                    if code is not None and self._waiting.get(topic) is payload:
                        del self._waiting[topic]
            if not self._waiting:
                self._none.set()
            self._some.clear()
            await set_within(self._some, 5.0)
            self._let_go()
        raise Unavailable(f"broker {without_password(self._url)}: disconnected")

    def _hold(self, topic: str, code: int) -> None:
        self._held[topic] = time.monotonic() + _HOLD_S
        if topic not in self._said:
            self._said.add(topic)
            reason = "not authorised" if code == 135 else f"reason code {code}"
            where = without_password(self._url)
            text = "broker %s does not take %s (%s): grant this user to write it; it is tried again"
            log.error(text, where, topic, reason, extra={"topic": topic, "code": code})

    def _let_go(self) -> None:
        for topic in [topic for topic, until in self._held.items() if until <= time.monotonic()]:
            del self._held[topic]
            self.set(topic, self._values[topic])


@contextlib.asynccontextmanager
async def subscribed(url: str, client_id: str, topic: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
    """Yields a function that waits at most so many seconds for the next value of a topic, the retained one first."""
    async with Session(url, client_id, [topic], clean=True) as session:
        arrived: list[Message] = []

        async def following(within: float) -> bytes | None:
            if not arrived:
                try:
                    async with asyncio.timeout(within):
                        arrived.extend(await session.receive())
                except TimeoutError:
                    return None
                session.ack(arrived)
            return arrived.pop(0).payload

        yield following


async def retained(url: str, client_id: str, filters: Sequence[str]) -> dict[str, bytes]:
    """What the broker retains on topics, by topic; Unavailable if it does not answer."""
    found: dict[str, bytes] = {}
    async with Session(url, client_id, filters, clean=True) as session:
        more = True
        while more:  # each answer lets the broker send some more, where it limits what is on its way
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await session.answered()
            except TimeoutError as why:
                raise Unavailable(f"broker {without_password(url)}: no answer within {_ANSWER_S:.0f} s") from why
            more = not session.established.is_set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIET_S):
                    messages = await session.receive()
                    session.ack(messages)
                    found.update((message.topic, message.payload) for message in messages)
                    more = True
    return found


async def answers(url: str, client_id: str) -> None:
    """Connect and leave: returns if the broker lets us in, else raises Refused or Unavailable."""
    async with connected(url, _Client(url, identifier=client_id, protocol=aiomqtt.ProtocolVersion.V311)):
        pass


class Introduced(_Client):
    """A connection that keeps what the broker said of itself: `greeting` are the properties of its CONNACK, if it speaks MQTT 5."""

    greeting: Any = None
    is_mqtt5 = True

    def _on_connect(self, *what: Any) -> None:
        self.greeting = what[4]
        super()._on_connect(*what)


@contextlib.asynccontextmanager
async def introduced(url: str, client_id: str) -> AsyncIterator[Introduced]:
    """A connection by the newest version of MQTT that the broker speaks, for who wants to know it; raises as `connected`."""
    async with contextlib.AsyncExitStack() as stack:
        mqtt = Introduced(url, identifier=client_id, protocol=aiomqtt.ProtocolVersion.V5)
        try:
            await stack.enter_async_context(connected(url, mqtt))
        except _Older:
            mqtt = Introduced(url, identifier=client_id, protocol=aiomqtt.ProtocolVersion.V311)
            mqtt.is_mqtt5 = False
            await stack.enter_async_context(connected(url, mqtt))
        yield mqtt
