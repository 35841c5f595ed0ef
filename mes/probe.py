"""What can be found out about a broker: MQTT tells little of it, so the rest is found by listening, and by trying.

Listening reads what is retained and what comes meanwhile. Trying is for those who ask for it: it publishes a bounded number of
small messages on a topic of its own under mes/doctor/ and takes them away again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Final

import aiomqtt

from mes import contract
from mes.broker import Session, introduced
from mes.errors import ConfigError, MesError, Refused
from mes.session import Address

PROBE_MESSAGES: Final = 1500
"""More than the 1,000 that Mosquitto keeps for a session by default, and few enough for any broker."""

_ROOM: Final = "mes/doctor"
_HOLDERS: Final = str(contract.holder_topic("+", "+", "+"))
_SYS: Final = {"version": "$SYS/broker/version", "dropped": "$SYS/broker/publish/messages/dropped"}
_ARRIVES_S: Final = 5.0
_PUBLISHED_S: Final = 20.0
_QUIET_S: Final = 10.0  # NATS sends what a session that left had not acked only after its ack_wait, 8 s where it is ours
_HANDSHAKE_S: Final = 5.0


@dataclass(slots=True)
class Heard:
    """What a broker told a listener.

    mqtt5       whether it speaks MQTT 5, without which it cannot say why it refuses something
    longest     bytes of the longest packet that it takes; None where it sets no limit or cannot say
    retains     whether it keeps retained messages
    version     what it calls itself (Mosquitto does)
    dropped     messages that it dropped because a queue was full, since it started (Mosquitto tells)
    holders     by path of a line the word of who holds its session, and when that came (seconds since 1970)
    is_live     paths of lines whose holder spoke while we listened
    """

    mqtt5: bool = False
    longest: int | None = None
    retains: bool = True
    version: str | None = None
    dropped: int | None = None
    holders: dict[str, tuple[contract.Holder, float]] = field(default_factory=dict)
    is_live: set[str] = field(default_factory=set)


async def listen(url: str, lines: set[str], seconds: float) -> Heard:
    """Connect and listen until the holder of each line has spoken, or for so many seconds.

    Refused or Unavailable where the broker does not let us in.
    """
    heard = Heard()
    async with introduced(url, name()) as mqtt:
        heard.mqtt5 = mqtt.is_mqtt5
        heard.longest = mqtt.longest
        heard.retains = getattr(mqtt.greeting, "RetainAvailable", 1) == 1
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            for pattern in (_HOLDERS, *_SYS.values()):
                await mqtt.subscribe(pattern, 1)
            async with asyncio.timeout(seconds):
                async for message in mqtt.messages:
                    _take(heard, str(message.topic), bytes(message.payload), message.retain)
                    if lines and heard.is_live >= lines and heard.version is not None:
                        break
    return heard


def _take(heard: Heard, topic: str, payload: bytes, retained: bool) -> None:
    if topic == _SYS["version"]:
        heard.version = payload[:80].decode("utf-8", "replace")
    elif topic == _SYS["dropped"]:
        heard.dropped = int(payload) if payload.isdigit() else None
    elif payload:
        try:
            line = contract.Topic.parse(topic)
            holder = contract.decode_holder(payload)
        except (MesError, ValueError):
            return
        path = f"{line.site}/{line.area}/{line.line}"
        heard.holders[path] = holder, time.time()
        if not retained:
            heard.is_live.add(path)


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial came to: how many messages were acknowledged to the publisher while a session was away, and how many it then got.

    is_kept    whether a retained message was kept
    refusal    why nothing could be tried; None where it was
    """

    acked: int = 0
    arrived: int = 0
    is_kept: bool = False
    refusal: str | None = None


async def attempt(url: str, messages: int = PROBE_MESSAGES) -> Tried:
    """Have a persistent session go away, publish, and count what it gets when it comes back. Whatever happens, nothing is left."""
    session_id, topic = name(), f"{_ROOM}/{secrets.token_hex(8)}"
    try:
        async with asyncio.timeout(_ARRIVES_S), Session(url, session_id, [topic]) as session:
            await session.established.wait()
            async with introduced(url, name()) as mqtt:
                await mqtt.publish_all([(topic, b"retained")], retain=True)
                session.ack(await session.receive())
        is_kept = await _is_retained(url, topic)
        async with introduced(url, name()) as mqtt:
            async with asyncio.timeout(_PUBLISHED_S):
                codes = await mqtt.publish_all([(topic, n.to_bytes(2, "big")) for n in range(messages)])
        acked = sum(code is not None and code < 128 for code in codes)
        return Tried(acked, await _count(url, session_id, topic, acked), is_kept)
    except TimeoutError:
        return Tried(refusal=f"messages on {topic} were not acknowledged or did not arrive in time: let this user write and read {_ROOM}/#")
    except Refused as why:
        return Tried(refusal=f"{why} ({_ROOM}/#)")
    finally:
        await _clean_up(url, session_id, topic)


async def _is_retained(url: str, topic: str) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ARRIVES_S), Session(url, name(), [topic], clean=True) as session:
            return any(message.retain for message in await session.receive())
    return False


async def _count(url: str, session_id: str, topic: str, acked: int) -> int:
    """Come back and take what was kept, until all is there or nothing has come for a while."""
    arrived: set[bytes] = set()
    async with Session(url, session_id, [topic]) as session:
        with contextlib.suppress(TimeoutError):
            while len(arrived) < acked:
                async with asyncio.timeout(_QUIET_S):
                    messages = await session.receive()
                session.ack(messages)
                arrived.update(message.payload for message in messages if len(message.payload) == 2)
    return len(arrived)


async def _clean_up(url: str, session_id: str, topic: str) -> None:
    """Take the retained message and the session away."""
    with contextlib.suppress(MesError, TimeoutError):
        async with asyncio.timeout(_ARRIVES_S):
            async with introduced(url, name()) as mqtt:
                await mqtt.publish_all([(topic, b"")], retain=True)
            async with Session(url, session_id, [topic], clean=True):
                pass


def name() -> str:
    """A client id that nobody else has."""
    return f"mes-doctor-{secrets.token_hex(6)}"


def certificate(url: str) -> bytes | None:
    """The broker's certificate (DER), whether it is to be trusted or not; None where the URL says no TLS.

    OSError where the handshake fails.
    """
    at = Address.of(url)
    if not at.secure:
        return None
    context = ssl.create_default_context()
    with contextlib.suppress(ConfigError):  # our own files are wrong, which is another finding: it shows its own first all the same
        context = at.tls() or context
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((at.host, at.port), _HANDSHAKE_S) as link,
        context.wrap_socket(link, server_hostname=at.host) as tls,
    ):
        return tls.getpeercert(binary_form=True)
