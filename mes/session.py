"""A persistent MQTT session that is received from as fast as can be, and acked when told to.

Ours, not a library's: those acknowledge a message when it has arrived, here the ack must wait for the commit, and their
cost for each message is more than that of all else that ingest does with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from mes import mqtt
from mes.errors import Refused, Unavailable
from mes.mqtt import Message
from mes.settings import without_password
from mes.tasks import set_within
from mes.tls import Credentials, is_final, meaning

_ANSWER_S = 10.0  # for the connection and the answer to CONNECT
_KEEPALIVE_S = 10.0
_SILENT_TICKS: Final = 2  # pings go out twice in that time; a link that is half open is given up at the latest after twice that time
_LEAVE_S: Final = 1.0
_FEW_BYTES: Final = 16 << 10  # below this it is worth waiting for company

REFUSED_CODES: Final = {
    1: "protocol version",
    2: "client id",
    4: "user name or password",
    5: "not authorised",
    134: "user name or password",
    135: "not authorised",
}


class Address(NamedTuple):
    """Where a URL mqtt://[user:password@]host[:port], or mqtts:// for TLS (see `mes.tls`), points."""

    host: str
    port: int
    secure: bool
    user: str | None
    password: str | None

    @classmethod
    def of(cls, url: str) -> Address:
        parts = urlsplit(url)
        secure = parts.scheme == "mqtts"
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        return cls(parts.hostname or "127.0.0.1", parts.port or (8883 if secure else 1883), secure, user, password)

    def tls(self) -> ssl.SSLContext | None:
        return Credentials.of_environment().context(self.secure)


def refused(where: str, code: int) -> Refused:
    """The error for a CONNACK code that waiting cannot cure."""
    return Refused(f"{where} refused the connection ({REFUSED_CODES[code]}): check MES_BROKER_URL")


def said_plainly(where: str, why: OSError | UnicodeError) -> Refused | Unavailable:
    """What the network or the system said, as an error of ours."""
    if isinstance(why, UnicodeError):
        return Refused(f"{where}: this is no host name ({why}): check MES_BROKER_URL")
    if isinstance(why, ssl.SSLError) and is_final(why):
        return Refused(f"{where}: TLS: {meaning(why)}")
    return Unavailable(f"{where}: {str(why) or f'no answer within {_ANSWER_S:.0f} s'}")


class Session(asyncio.Protocol):
    """A persistent session (QoS 1, MQTT 3.1.1): everything that arrives waits here, and at the broker, until acked.

    filters   what to subscribe to
    retired   filters of earlier versions of the program, taken out of the session, where they would stay for ever
    clean     whether the session ends with the connection instead
    limit     bytes: reading stops while more wait to be taken, so back-pressure reaches the broker and memory is bounded,
              whatever the broker's own caps are

    One object is one connection: when it has gone, `receive` hands out what has arrived and then raises Unavailable.
    """

    def __init__(
        self, url: str, client_id: str, filters: Sequence[str], limit: int = 8 << 20, retired: Collection[str] = (), clean: bool = False
    ) -> None:
        self._at = Address.of(url)
        self._where = f"broker {without_password(url)}"
        self._client_id = client_id
        self._filters = filters
        self._retired = [pattern for pattern in retired if pattern not in filters]
        self._limit = limit
        self._clean = clean
        self.established = asyncio.Event()
        """Set once the broker keeps this session: whatever is published from then on will arrive, now or later.

        At once where there was one; only when the broker has answered, which can be behind all that waits, where it is new
        or where filters are taken out."""
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
        self._unanswered = 0  # pings
        self._pong = asyncio.Event()
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
                raise said_plainly(self._where, why) from why
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
                await set_within(self._closed, _LEAVE_S)
        finally:
            self._abort()

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and were not taken yet."""
        return self._bytes

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

    async def answered(self) -> None:
        """Return when the broker has answered what was sent so far, and so has sent what it retains for the subscription."""
        assert self._transport is not None
        self._ping(self._transport)
        while self._unanswered and self._failure is None:
            self._pong.clear()
            await self._pong.wait()

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
        who = mqtt.connect(self._client_id, keepalive=keepalive, clean=self._clean, user=self._at.user, password=self._at.password)
        transport.write(who)

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
            self._fail(said_plainly(self._where, why))
        early = "" if self._answered.is_set() or self._at.secure else " before it answered: does this port want TLS (mqtts://)?"
        self._fail(Unavailable(f"{self._where}: {why or 'the connection was closed'}{early}"))
        self._closed.set()

    def _take(self, packet: mqtt.Packet) -> None:
        if isinstance(packet, mqtt.Connack):
            self._greeted(packet)
        elif isinstance(packet, mqtt.Suback):
            denied = [pattern for pattern, code in zip(self._filters, packet.codes, strict=False) if code == mqtt.REFUSED]
            if denied:
                self._fail(Refused(f"{self._where} refused the subscription {denied[0]}: grant this user to read it"))
            else:
                self.established.set()
        elif isinstance(packet, mqtt.Pingresp):
            self._unanswered = max(0, self._unanswered - 1)
            self._pong.set()

    def _ping(self, transport: asyncio.Transport) -> None:
        self._unanswered += 1
        transport.write(mqtt.PINGREQ)

    def _greeted(self, packet: mqtt.Connack) -> None:
        if packet.code in REFUSED_CODES:
            self._fail(refused(self._where, packet.code))
        elif packet.code:
            self._fail(Unavailable(f"{self._where} is not available (code {packet.code})"))
        elif self._transport is not None:
            if packet.session_present and not self._retired:
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
        self._ping(self._transport)
        self._ticking = asyncio.get_running_loop().call_later(_KEEPALIVE_S / 2, self._tick)

    def _fail(self, why: Exception) -> None:
        self._failure = self._failure or why
        self._some.set()
        self._answered.set()
        self._pong.set()

    def _abort(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if self._transport is not None:
            self._transport.abort()
