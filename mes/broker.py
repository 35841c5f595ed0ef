"""The only door to MQTT: persistent sessions that ack when told to, and a publisher of retained values.

Receiving is ours (`mes.mqtt` is its parser): a client library acknowledges a message when it has arrived, here the ack
must wait for the commit, and a library's cost for each message is more than that of all else that ingest does with it.
Publishing is aiomqtt's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import aiomqtt

from mes import mqtt
from mes.errors import Refused, Unavailable
from mes.mqtt import Message
from mes.settings import without_password

__all__ = ["Message", "Publisher", "Session", "subscribed"]

log = logging.getLogger(__name__)
logging.getLogger("mqtt").setLevel(logging.ERROR)  # aiomqtt warns of more than ten calls under way, which is what we want

_ANSWER_S = 10.0  # for the connection and the answer to CONNECT
_KEEPALIVE_S = 10.0
_SILENT_TICKS = 2  # pings go out twice in that time; a link that is half open is given up at the latest after twice that time
_LEAVE_S = 1.0
_FEW_BYTES = 16 << 10  # below this it is worth waiting for company
_AT_ONCE = 100  # retained values on their way

_REFUSED_CODES = {
    1: "protocol version",
    2: "client id",
    4: "user name or password",
    5: "not authorised",
    134: "user name or password",
    135: "not authorised",
}


class _Address(NamedTuple):
    """Where a URL mqtt://[user:password@]host[:port], or mqtts:// (TLS, the system's authorities), points."""

    host: str
    port: int
    secure: bool
    user: str | None
    password: str | None

    @classmethod
    def of(cls, url: str) -> _Address:
        parts = urlsplit(url)
        secure = parts.scheme == "mqtts"
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        return cls(parts.hostname or "127.0.0.1", parts.port or (8883 if secure else 1883), secure, user, password)

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.secure else None


def client(url: str, **options: Any) -> aiomqtt.Client:
    """An unconnected client for the URL."""
    at = _Address.of(url)
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
        if isinstance(why, aiomqtt.exceptions.MqttConnectError) and code in _REFUSED_CODES:
            raise _refused(where, code) from why
        raise Unavailable(f"{where}: {why}") from why
    except aiomqtt.MqttError as why:
        raise Unavailable(f"{where}: {why}") from why
    except (OSError, UnicodeError) as why:
        raise _said_plainly(where, why) from why


def _refused(where: str, code: int) -> Refused:
    return Refused(f"{where} refused the connection ({_REFUSED_CODES[code]}): check MES_BROKER_URL")


def _said_plainly(where: str, why: OSError | UnicodeError) -> Refused | Unavailable:
    """What the network or the system said, as an error of ours."""
    if isinstance(why, UnicodeError):
        return Refused(f"{where}: this is no host name ({why}): check MES_BROKER_URL")
    if isinstance(why, ssl.SSLError) and not isinstance(why, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return Refused(f"{where}: TLS: {why}: check the certificates")
    return Unavailable(f"{where}: {str(why) or f'no answer within {_ANSWER_S:.0f} s'}")


class Session(asyncio.Protocol):
    """A persistent session (QoS 1, MQTT 3.1.1): everything that arrives waits here, and at the broker, until acked.

    filters   what to subscribe to
    retired   filters of earlier versions of the program, taken out of the session, where they would stay for ever
    limit     bytes: reading stops while more wait to be taken, so back-pressure reaches the broker and memory is bounded,
              whatever the broker's own caps are

    One object is one connection: when it has gone, `receive` hands out what has arrived and then raises Unavailable.
    """

    def __init__(self, url: str, client_id: str, filters: Sequence[str], limit: int = 8 << 20, retired: Collection[str] = ()) -> None:
        self._at = _Address.of(url)
        self._where = f"broker {without_password(url)}"
        self._client_id = client_id
        self._filters = filters
        self._retired = [pattern for pattern in retired if pattern not in filters]
        self._limit = limit
        self.established = asyncio.Event()
        """Set once the broker keeps this session: whatever is published from then on will arrive, now or later."""
        self._parser = mqtt.Parser()
        self._arrived: deque[tuple[list[Message], int]] = deque()  # the messages of a read, and its bytes
        self._bytes = 0
        self._incomplete = 0  # bytes read since the last whole message
        self._paused = self._leaving = False
        self._some = asyncio.Event()
        self._failure: Exception | None = None
        self._answered = asyncio.Event()
        self._closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._silence = 0  # ticks since anything came
        self._ticking: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Session:
        """Connect; Refused if the broker says no, Unavailable if it does not answer."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.get_running_loop().create_connection(lambda: self, self._at.host, self._at.port, ssl=self._at.tls())
                await self._answered.wait()
            if self._failure is not None:
                raise self._failure
            return self
        except BaseException as why:
            self._abort()
            if isinstance(why, (OSError, UnicodeError)):
                raise _said_plainly(self._where, why) from why
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave when the broker has taken the last ack: it closes the connection when it has read up to DISCONNECT. One that is
        asked for the same session before that drops what it has not read yet, and the acks with it."""
        self._leaving = True
        try:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(mqtt.DISCONNECT)
                if self._transport.can_write_eof():
                    with contextlib.suppress(OSError):  # the connection broke, and the loop has not told yet
                        self._transport.write_eof()
                self._transport.resume_reading()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), _LEAVE_S)
        finally:
            self._abort()

    async def receive(self, most: int = 1 << 20, linger: float = 0.0) -> list[Message]:
        """All that has arrived, in order, up to about `most` bytes; waits for one message, and where few came `linger` seconds for more."""
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            self._some.clear()
            await self._some.wait()
        if linger and self._bytes < _FEW_BYTES:
            await asyncio.sleep(linger)
        messages, size = self._arrived.popleft()
        while self._arrived and size < most:
            more, n = self._arrived.popleft()
            messages += more
            size += n
        self._bytes -= size
        if self._paused and self._bytes <= self._limit // 2 and self._transport is not None:
            self._paused = False
            self._silence = 0
            self._transport.resume_reading()
        return messages

    def ack(self, messages: Sequence[Message]) -> None:
        """Tell the broker that these are safe. On a connection that has gone this does nothing: they will come again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(mqtt.pubacks([message.mid for message in messages if message.qos]))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if (sock := transport.get_extra_info("socket")) is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_KEEPALIVE_S * 1000))
        keepalive = math.ceil(_KEEPALIVE_S)
        transport.write(mqtt.connect(self._client_id, keepalive=keepalive, user=self._at.user, password=self._at.password))

    def data_received(self, data: bytes) -> None:
        self._silence = 0
        if self._leaving:
            return
        parser = self._parser
        try:
            parser.feed(data)
        except mqtt.ProtocolError as why:
            self._fail(Unavailable(f"{self._where} does not speak MQTT 3.1.1: {why}"))
            self._abort()
        self._incomplete += len(data)
        if parser.messages:
            self._arrived.append((parser.messages, self._incomplete))
            self._bytes += self._incomplete
            self._incomplete = 0
            parser.messages = []
            self._some.set()
            if self._bytes > self._limit and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        if parser.packets:
            for packet in parser.packets:
                self._take(packet)
            parser.packets = []

    def connection_lost(self, why: Exception | None) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if isinstance(why, ssl.SSLError) and not self._answered.is_set():
            self._fail(_said_plainly(self._where, why))
        self._fail(Unavailable(f"{self._where}: {why or 'the connection was closed'}"))
        self._closed.set()

    def _take(self, packet: mqtt.Packet) -> None:
        if isinstance(packet, mqtt.Connack):
            self._greeted(packet)
        elif isinstance(packet, mqtt.Suback):
            refused = [pattern for pattern, code in zip(self._filters, packet.codes, strict=False) if code == mqtt.REFUSED]
            if refused:
                self._fail(Refused(f"{self._where} refused the subscription {refused[0]}: grant this user to read it"))
            else:
                self.established.set()

    def _greeted(self, packet: mqtt.Connack) -> None:
        if packet.code in _REFUSED_CODES:
            self._fail(_refused(self._where, packet.code))
        elif packet.code:
            self._fail(Unavailable(f"{self._where} is not available (code {packet.code})"))
        elif self._transport is not None:
            if packet.session_present:
                self.established.set()
            if self._retired:
                self._transport.write(mqtt.unsubscribe(2, self._retired))
            # The answer is not awaited: the SUBACK of a resumed session can sit behind its whole backlog.
            self._transport.write(mqtt.subscribe(1, self._filters))
            self._ticking = asyncio.get_running_loop().call_later(_KEEPALIVE_S / 2, self._tick)
        self._answered.set()

    def _tick(self) -> None:
        """Tell the broker that we live; give up a connection on which nothing came since three of these were sent.

        Ticks are counted, not seconds: a program that was held up itself must not blame the broker. While reading is
        paused silence says nothing; a link that has gone is then noticed by the system, as our pings are not taken.
        """
        assert self._transport is not None
        if self._paused:
            self._silence = 0
        if self._silence > _SILENT_TICKS:
            self._fail(Unavailable(f"{self._where}: nothing came for {_KEEPALIVE_S / 2 * self._silence:.0f} s, though asked"))
            self._abort()
            return
        self._silence += 1
        self._transport.write(mqtt.PINGREQ)
        self._ticking = asyncio.get_running_loop().call_later(_KEEPALIVE_S / 2, self._tick)

    def _fail(self, why: Exception) -> None:
        self._failure = self._failure or why
        self._some.set()
        self._answered.set()

    def _abort(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if self._transport is not None:
            self._transport.abort()


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
