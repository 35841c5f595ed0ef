"""A connection to a broker that comes back: MQTT 5 or 3.1.1, QoS 1, with the broker's answer to each message."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiomqtt

from mes.errors import ConfigError, Refused

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


class Connection:
    """Connects again and again, until the work on a connection is done.

    window   messages, at most, that the broker has not acknowledged
    """

    def __init__(self, url: BrokerUrl, client_id: str, window: int, say: Callable[[str], None]) -> None:
        self.url = url
        self._client_id, self._window, self._say = client_id, window, say
        self._version = 5

    async def serve(self, work: Callable[[Client], Awaitable[bool]]) -> None:
        """Do the work on one connection after another until it returns True. Refused when the broker rejects the credentials."""
        delay, said = _BACK_OFF_S[0], ""
        while True:
            try:
                async with self._client() as client:
                    delay = _BACK_OFF_S[0]
                    if said:
                        self._say(f"broker {self.url} is there again")
                        said = ""
                    if await work(client):
                        return
            except aiomqtt.MqttError as why:
                code = _code(why)
                if code in (1, 132) and self._version == 5:
                    self._version = 4
                    continue
                if code in (4, 5, 134, 135):  # bad user name or password, not authorised, as 3.1.1 and as 5 number them
                    who = f"user {self.url.user!r}" if self.url.user else "a client without user"
                    cure = "set user and password in MES_BROKER_URL (mqtt://user:password@host)"
                    raise Refused(f"broker {self.url} refuses {who}: {cure}") from why
                problem = f"broker {self.url} does not answer ({why}): trying again; is it running, and is MES_BROKER_URL right?"
                if problem != said:
                    self._say(problem)
                    said = problem
                await asyncio.sleep(delay)
                delay = min(delay * 2, _BACK_OFF_S[1])

    def _client(self) -> Client:
        quiet = logging.getLogger("linesim.mqtt")
        quiet.setLevel(logging.CRITICAL)
        return Client(
            self.url.host,
            self.url.port,
            username=self.url.user,
            password=self.url.password,
            identifier=self._client_id,
            # 5 says why a message is not taken; some brokers speak 3.1.1 only
            protocol=aiomqtt.ProtocolVersion.V5 if self._version == 5 else aiomqtt.ProtocolVersion.V311,
            keepalive=_KEEPALIVE_S,
            max_inflight_messages=self._window,
            tls_context=ssl.create_default_context() if self.url.tls else None,
            logger=quiet,
        )


class Client(aiomqtt.Client):
    """aiomqtt's, with a publish that waits for nothing and hands on the broker's reason code, which aiomqtt does not look at."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answers: dict[int, Callable[[int], None]] = {}

    def send(self, topic: str, payload: bytes, answered: Callable[[int], None]) -> None:
        """Publish with QoS 1; `answered` is called with the reason code (0: taken) unless the connection ends before."""
        self._answers[self._client.publish(topic, payload, 1).mid] = answered

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        answered = self._answers.pop(mid, None)
        if answered is None:
            super()._on_publish(client, userdata, mid, reason_code, properties)
        else:
            answered(getattr(reason_code, "value", reason_code))


def _code(why: aiomqtt.MqttError) -> int:
    if not isinstance(why, aiomqtt.MqttCodeError) or why.rc is None:
        return 0
    return int(why.rc if isinstance(why.rc, int) else why.rc.value)
