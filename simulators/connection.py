"""A connection to a broker that comes back: MQTT 5 or 3.1.1, QoS 1, with the broker's answer to each message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

import aiomqtt

from mes.client import Client, code_of, reason_of
from mes.errors import ConfigError, Refused
from mes.tls import Credentials, meaning

__all__ = ["BrokerUrl", "Client", "Connection"]

_BACK_OFF_S: Final = (0.2, 5.0)
_SOUND_S: Final = 5.0  # a connection that ends sooner is none: the broker has hung up on what it was sent
_KEEPALIVE_S: Final = 20


@dataclass(frozen=True)
class BrokerUrl:
    """mqtt://[user:password@]host[:port]; mqtts:// is TLS, with the certificates of `credentials`. `__str__` leaves the password out."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool
    credentials: Credentials = field(default_factory=Credentials.of_environment)

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
        """Do the work on one connection after another until it returns True. ConfigError when a certificate of ours is not in
        order, Refused when the broker rejects who we are."""
        delay, away, said = _BACK_OFF_S[0], False, ""
        while True:
            client, began = self._client(), None
            try:
                async with client:
                    began = time.monotonic()
                    if away:
                        self._say(f"broker {self.url} is there again")
                        away = False
                    if await work(client):
                        return
            except aiomqtt.MqttError as why:
                if code_of(why) in (1, 132) and self._version == 5:
                    self._version = 4
                    continue
                self._refuse(client, why)
                if began is None:
                    away = True
                    problem = f"broker {self.url} does not answer ({why}): trying again; is it running, and is MES_BROKER_URL right?"
                else:
                    problem = f"broker {self.url} has ended the connection ({reason_of(why)}): connecting again"
                    if time.monotonic() - began >= _SOUND_S:
                        delay, said = _BACK_OFF_S[0], ""
                if problem != said:
                    self._say(problem)
                    said = problem
                await asyncio.sleep(delay)
                delay = min(delay * 2, _BACK_OFF_S[1])

    def _refuse(self, client: Client, why: aiomqtt.MqttError) -> None:
        """Raise Refused where it is no use to try again."""
        if (no := client.refusal(why)) is not None:
            raise Refused(f"broker {self.url}: TLS: {meaning(no)}") from why
        if code_of(why) in (4, 5, 134, 135):  # bad user name or password, not authorised, as 3.1.1 and as 5 number them
            who = f"user {self.url.user!r}" if self.url.user else "a client without user"
            cure = "set user and password in MES_BROKER_URL (mqtt://user:password@host)"
            if self.url.credentials.cert:
                who, cure = f"the certificate {self.url.credentials.cert}", "give its name to a user there"
            raise Refused(f"broker {self.url} refuses {who}: {cure}") from why

    def _client(self) -> Client:
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
            tls_context=self.url.credentials.context(self.url.tls),
        )
