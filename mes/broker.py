"""The only door to MQTT: persistent sessions that ack when told to, and a publisher of retained values.

aiomqtt acknowledges a message when it has arrived; here the ack must wait for the commit. So `Session` sets manual
acknowledgement and its own message hook on the paho client inside, before the connection opens: a resumed session
delivers right behind CONNACK. This reaches private attributes of one pinned version, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt
from paho.mqtt.client import MQTTMessage

from mes.errors import Refused, Unavailable
from mes.settings import without_password

log = logging.getLogger(__name__)
logging.getLogger("mqtt").setLevel(logging.ERROR)  # aiomqtt warns of more than ten calls under way, which is what we want

_AT_ONCE = 100  # retained values on their way

_REFUSED_CODES = {
    1: "protocol version",
    2: "client id",
    4: "user name or password",
    5: "not authorised",
    134: "user name or password",
    135: "not authorised",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came, with the handle that acknowledges it."""

    topic: str
    payload: bytes
    mid: int
    qos: int


def client(url: str, **options: Any) -> aiomqtt.Client:
    """An unconnected client for mqtt://[user:password@]host[:port] or mqtts:// (TLS, the system's authorities)."""
    parts = urlsplit(url)
    secure = parts.scheme == "mqtts"
    return aiomqtt.Client(
        parts.hostname or "127.0.0.1",
        parts.port or (8883 if secure else 1883),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls_context=ssl.create_default_context() if secure else None,
        **options,
    )


@contextlib.asynccontextmanager
async def connected(url: str, mqtt: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """Hold a connection; Refused if the broker says no, Unavailable if it does not answer or goes away."""
    where = f"broker {without_password(url)}"
    try:
        async with mqtt:
            yield mqtt
    except aiomqtt.MqttCodeError as why:
        code = why.rc if isinstance(why.rc, int) else why.rc.value if why.rc else 0
        if isinstance(why, aiomqtt.exceptions.MqttConnectError) and code in _REFUSED_CODES:
            raise Refused(f"{where} refused the connection ({_REFUSED_CODES[code]}): check MES_BROKER_URL") from why
        raise Unavailable(f"{where}: {why}") from why
    except aiomqtt.MqttError as why:
        raise Unavailable(f"{where}: {why}") from why
    except ssl.SSLError as why:
        raise Refused(f"{where}: TLS: {why}: check the certificates") from why
    except OSError as why:
        raise Unavailable(f"{where}: {why}") from why


class Session:
    """A persistent session (QoS 1, MQTT 3.1.1): everything that arrives waits here, and at the broker, until acked.

    Reading stops while more than `limit` bytes wait to be taken, so back-pressure reaches the broker and memory is
    bounded by `limit`, whatever the broker's own caps are.
    """

    def __init__(self, url: str, client_id: str, filters: Sequence[str], limit: int = 8 << 20, retired: Sequence[str] = ()) -> None:
        self._url = url
        self._filters = filters
        self._retired = retired
        self._limit = limit
        self._arrived: list[Message] = []
        self._bytes = 0
        self._paused = False
        self._some = asyncio.Event()
        self._failure: Exception | None = None
        self.established = asyncio.Event()
        """Set once the broker keeps this session: whatever is published from then on will arrive, now or later."""
        self._mqtt = client(url, identifier=client_id, clean_session=False, keepalive=30)
        self._paho = self._mqtt._client  # noqa: SLF001
        self._paho.manual_ack_set(True)
        self._paho.on_message = self._on_message
        self._paho.on_subscribe = self._on_subscribe
        self._mqtt_on_connect: Any = self._paho.on_connect
        self._paho.on_connect = self._on_connect
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Session:
        await self._stack.enter_async_context(connected(self._url, self._mqtt))
        self._mqtt._disconnected.add_done_callback(self._on_disconnected)  # noqa: SLF001
        # Not awaited: the SUBACK of a resumed session can sit behind its whole backlog.
        self._paho.subscribe([(pattern, 1) for pattern in self._filters])
        if self._retired:
            self._paho.unsubscribe(list(self._retired))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def receive(self, most: int = 1 << 20, linger: float = 0.0) -> list[Message]:
        """All that has arrived, in order, up to about `most` bytes; waits for one message, and where few came `linger` seconds for more."""
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            self._some.clear()
            await self._some.wait()
        if linger and len(self._arrived) < 64:
            await asyncio.sleep(linger)
        taken, size = 0, 0
        while taken < len(self._arrived) and size < most:
            size += len(self._arrived[taken].payload)
            taken += 1
        messages, self._arrived = self._arrived[:taken], self._arrived[taken:]
        self._bytes -= size
        if self._paused and self._bytes < self._limit // 2 and (sock := self._paho.socket()) is not None:
            self._paused = False
            asyncio.get_running_loop().add_reader(sock.fileno(), self._read)
        return messages

    def ack(self, messages: Sequence[Message]) -> None:
        """Tell the broker that these are safe. On a connection that has gone this does nothing: they will come again."""
        for message in messages:
            self._paho.ack(message.mid, message.qos)

    def _on_message(self, _client: object, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = message._topic.decode("utf-8", "backslashreplace")  # noqa: SLF001 - to be quarantined, not to break the session
        self._arrived.append(Message(topic, bytes(message.payload), message.mid, message.qos))
        self._bytes += len(message.payload)
        self._some.set()
        if self._bytes > self._limit and not self._paused and (sock := self._paho.socket()) is not None:
            self._paused = True
            asyncio.get_running_loop().remove_reader(sock.fileno())

    def _read(self) -> None:
        try:
            self._paho.loop_read()
            while not self._paused and getattr(self._paho.socket(), "pending", lambda: 0)():
                self._paho.loop_read()  # TLS may hold decoded bytes that no selector sees
        except Exception as why:  # noqa: BLE001 - whatever broke, the connection is gone
            self._fail(Unavailable(f"broker {without_password(self._url)}: {why}"))

    def _on_connect(self, paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if flags.session_present:
            self.established.set()
        self._mqtt_on_connect(paho, userdata, flags, reason, properties)

    def _on_subscribe(self, _client: object, _userdata: object, _mid: int, codes: list[Any], _properties: object = None) -> None:
        for pattern, code in zip(self._filters, codes, strict=False):
            if getattr(code, "value", code) >= 128:
                self._fail(Refused(f"broker {without_password(self._url)} refused the subscription {pattern}: grant this user to read it"))
                return
        self.established.set()

    def _on_disconnected(self, disconnected: asyncio.Future[None]) -> None:
        why = None if disconnected.cancelled() else disconnected.exception()
        self._fail(Unavailable(f"broker {without_password(self._url)}: {why or 'disconnected'}"))

    def _fail(self, why: Exception) -> None:
        self._failure = self._failure or why
        self._some.set()


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
