"""Where events go: an MQTT broker, with every message acknowledged, or a file."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from mes.errors import ConfigError, Refused

if TYPE_CHECKING:
    import aiomqtt

WINDOW: Final = 200
# Backlogs are long messages: a few dozen on their way keep a broker busy, more only cost memory (and paho time, which
# walks through all of them at each acknowledgement).
_WINDOW_BYTES: Final = 2 << 20
_BACK_OFF_S: Final = (0.2, 5.0)
_KEEPALIVE_S: Final = 20


@dataclass(frozen=True)
class BrokerUrl:
    """mqtt://[user:password@]host[:port]; mqtts:// is TLS. `__str__` leaves the password out."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read a URL; ConfigError says what would be allowed."""
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            url, port = urlsplit(""), None
        if url.scheme not in ("mqtt", "mqtts") or not url.hostname or url.path.strip("/") or url.query:
            shown = text.rpartition("@")[2]
            form = "mqtt://[user:password@]host[:port], or mqtts:// for TLS"
            raise ConfigError(f"broker URL {shown!r} is not {form}: correct --broker or MES_BROKER_URL")
        tls = url.scheme == "mqtts"
        user = unquote(url.username) if url.username else None
        password = unquote(url.password) if url.password else None
        return cls(url.hostname, port or (8883 if tls else 1883), user, password, tls)

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


@dataclass
class _Batch:
    open: int
    until: int


@dataclass(frozen=True, eq=False)
class _Outgoing:
    topic: str
    payload: bytes
    events: int
    batch: _Batch


class Publisher:
    """One connection that speaks for a line's machines. MQTT 3.1.1, QoS 1.

    At most `window` messages, and about 2 MiB of them, are unacknowledged. When the connection breaks they are sent again,
    in order and unchanged, on the next one; nothing is dropped. `acked_until` is how far all batches are acknowledged.

    published, acked     events, redeliveries not counted
    """

    def __init__(self, url: BrokerUrl, client_id: str, window: int = WINDOW, say: Callable[[str], None] = print) -> None:
        self.url = url
        self.client_id = client_id
        self.published = 0
        self.acked = 0
        self.acked_until: int | None = None
        self._say = say
        self._window = window
        self._unacked_bytes = 0
        self._room = asyncio.Event()
        self._unacked: dict[int, _Outgoing] = {}
        self._number = 0
        self._batches: deque[_Batch] = deque()
        self._client: aiomqtt.Client | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._sending: set[asyncio.Task[None]] = set()

    async def submit(self, messages: Sequence[tuple[str, bytes, int]], until: int) -> None:
        """Hand over (topic, payload, events) in order, with which everything before `until` is; waits while the window is full."""
        batch = _Batch(len(messages), until)
        self._batches.append(batch)
        for topic, payload, events in messages:
            while len(self._unacked) >= self._window or self._unacked_bytes >= _WINDOW_BYTES:
                self._room.clear()
                await self._room.wait()
            self._number += 1
            message = _Outgoing(topic, payload, events, batch)
            self._unacked[self._number] = message
            self._unacked_bytes += len(payload)
            self._idle.clear()
            self.published += events
            if self._client is not None:
                self._send(self._client, self._number, message)
        self._mark()

    def _send(self, client: aiomqtt.Client, number: int, message: _Outgoing) -> None:
        task = asyncio.create_task(self._deliver(client, number, message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _deliver(self, client: aiomqtt.Client, number: int, message: _Outgoing) -> None:
        import aiomqtt

        try:
            await client.publish(message.topic, message.payload, qos=1, timeout=math.inf)
        except aiomqtt.MqttError:
            return  # the connection's end is noticed in `serve`, which sends all that is unacknowledged again
        if self._unacked.pop(number, None) is not None:
            self.acked += message.events
            message.batch.open -= 1
            self._unacked_bytes -= len(message.payload)
            self._room.set()
            self._mark()
            if not self._unacked:
                self._idle.set()

    def _mark(self) -> None:
        while self._batches and self._batches[0].open == 0:
            self.acked_until = self._batches.popleft().until

    async def drained(self) -> None:
        """Return when everything handed over is acknowledged."""
        await self._idle.wait()

    async def serve(self) -> None:
        """Keep a connection until cancelled. Refused when the broker rejects the credentials; otherwise it tries for ever."""
        import aiomqtt

        delay, said = _BACK_OFF_S[0], ""
        while True:
            try:
                async with self._connection() as client:
                    delay = _BACK_OFF_S[0]
                    if said:
                        self._say(f"broker {self.url} is there again")
                        said = ""
                    for number, message in list(self._unacked.items()):
                        self._send(client, number, message)
                    self._client = client
                    try:
                        async for _ in client.messages:
                            pass
                    finally:
                        self._client = None
                        for task in self._sending:
                            task.cancel()
            except aiomqtt.MqttError as why:
                if _is_refusal(why):
                    who = f"user {self.url.user!r}" if self.url.user else "a client without user"
                    cure = "set user and password in MES_BROKER_URL (mqtt://user:password@host)"
                    raise Refused(f"broker {self.url} refuses {who}: {cure}") from why
                problem = f"broker {self.url} does not answer ({why}): trying again; is it running, and is MES_BROKER_URL right?"
                if problem != said:
                    self._say(problem)
                    said = problem
                await asyncio.sleep(delay)
                delay = min(delay * 2, _BACK_OFF_S[1])

    def _connection(self) -> aiomqtt.Client:
        import aiomqtt

        quiet = logging.getLogger("linesim.mqtt")
        quiet.setLevel(logging.CRITICAL)
        client = aiomqtt.Client(
            self.url.host,
            self.url.port,
            username=self.url.user,
            password=self.url.password,
            identifier=self.client_id,
            protocol=aiomqtt.ProtocolVersion.V311,
            keepalive=_KEEPALIVE_S,
            max_inflight_messages=self._window,
            tls_context=ssl.create_default_context() if self.url.tls else None,
            logger=quiet,
        )
        client.pending_calls_threshold = self._window  # below it, each publish would count the pending ones and warn
        return client

    async def close(self, grace_s: float) -> None:
        """Wait at most this long for what is still unacknowledged."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), grace_s)


def _is_refusal(why: Exception) -> bool:
    import aiomqtt

    if not isinstance(why, aiomqtt.MqttCodeError):
        return False
    code = getattr(why.rc, "value", why.rc)
    return code in (4, 5, 134, 135)  # bad user name or password, not authorised, as 3.1.1 and as 5 number them
