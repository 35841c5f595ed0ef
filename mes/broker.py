"""The only door to MQTT: persistent sessions that ack when told to (`mes.session`), and what publishes retained values.

Publishing is aiomqtt's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiomqtt

from mes.errors import Unavailable
from mes.mqtt import Message
from mes.session import REFUSED_CODES, Address, Session, refused, said_plainly
from mes.settings import without_password

__all__ = ["Message", "Publisher", "Session", "subscribed"]

log = logging.getLogger(__name__)
logging.getLogger("mqtt").setLevel(logging.ERROR)  # aiomqtt warns of more than ten calls under way, which is what we want

_AT_ONCE = 100  # retained values on their way


def client(url: str, **options: Any) -> aiomqtt.Client:
    """An unconnected client for the URL."""
    at = Address.of(url)
    return aiomqtt.Client(at.host, at.port, username=at.user, password=at.password, tls_context=at.tls(), **options)


@contextlib.asynccontextmanager
async def connected(url: str, mqtt: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """Hold a connection; Refused if the broker says no, Unavailable if it does not answer or goes away."""
    where = f"broker {without_password(url)}"
    try:
        async with mqtt:
            yield mqtt
    except aiomqtt.MqttCodeError as why:
        code = why.rc if isinstance(why.rc, int) else why.rc.value if why.rc else 0
        if isinstance(why, aiomqtt.exceptions.MqttConnectError) and code in REFUSED_CODES:
            raise refused(where, code) from why
        raise Unavailable(f"{where}: {why}") from why
    except aiomqtt.MqttError as why:
        if isinstance(why.__context__, ssl.SSLError):  # what aiomqtt made of it has no type
            raise said_plainly(where, why.__context__) from why
        raise Unavailable(f"{where}: {why}") from why
    except (OSError, UnicodeError) as why:
        raise said_plainly(where, why) from why


class Publisher:
    """Keeps retained topics at their latest value: what matters is the last value, not each one.

    Every value is published again on each new connection, since a broker that died may have lost what it retained.
    """

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self._client_id = client_id
        self._values: dict[str, bytes] = {}
        self._waiting: dict[str, bytes] = {}
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def set(self, topic: str, payload: bytes) -> None:
        """Publish `payload`, retained, as soon as may be; an older value of the topic that still waits is replaced.

        An empty payload takes the retained value away.
        """
        self._values[topic] = self._waiting[topic] = payload
        self._some.set()
        self._none.clear()

    async def drained(self, within: float) -> bool:
        """Wait for at most so many seconds until the broker has acknowledged all values; whether it has."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within)
        return self._none.is_set()

    async def run(self) -> None:
        """Publish until cancelled; a broker that is away is tried again with back-off, one that refuses raises Refused."""
        pause = 0.5
        while True:
            try:
                async with connected(self._url, client(self._url, identifier=self._client_id)) as mqtt:
                    pause = 0.5
                    self._waiting = dict(self._values)
                    await self._drain(mqtt)
            except Unavailable as why:
                log.warning("%s; values wait, trying again in %.0f s", why, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 30.0)

    async def _drain(self, mqtt: aiomqtt.Client) -> None:
        while True:
            while self._waiting:
                some = list(itertools.islice(self._waiting.items(), _AT_ONCE))
                await asyncio.gather(*(mqtt.publish(topic, payload, qos=1, retain=True) for topic, payload in some))
                for topic, payload in some:
                    if self._waiting.get(topic) is payload:
                        del self._waiting[topic]
            self._none.set()
            self._some.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), 5.0)
            if mqtt._disconnected.done():  # noqa: SLF001
                raise Unavailable(f"broker {without_password(self._url)}: disconnected")


@contextlib.asynccontextmanager
async def subscribed(url: str, topic: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
    """Yields a function that waits at most so many seconds for the next value of a topic, the retained one first."""
    async with connected(url, client(url)) as mqtt:
        await mqtt.subscribe(topic, qos=1)
        messages = aiter(mqtt.messages)

        async def following(within: float) -> bytes | None:
            try:
                return bytes((await asyncio.wait_for(anext(messages), within)).payload)
            except TimeoutError:
                return None

        yield following
