"""MQTT 3.1.1 as bytes, as far as a subscriber at QoS 1 speaks it: packets to send, and a parser of what comes. No I/O.

The parser works on whole reads, hundreds of messages at a time: what a single message costs decides how fast a day can
be replayed. It takes a stream however it is sliced, keeps at most one packet that is not complete, and copies each
byte a fixed number of times.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from mes.errors import Unavailable

MAX_PACKET_BYTES: Final = 16 << 20
"""Longer messages are cut: far above what the contract allows, far below what memory allows."""

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"
REFUSED: Final = 0x80
"""The return code of a subscription that was not granted."""

_PUBLISH: Final = 3
_PUBLISH_QOS_1: Final = 0x32  # first byte: QoS 1, neither sent again nor retained
_TOPICS: Final = 4096  # how many topics are remembered; a line has some hundreds
_TOPIC_BYTES: Final = 256  # and up to which length; the contract's have half of it


class ProtocolError(Unavailable):
    """What came is not MQTT 3.1.1. The connection is of no use any more, a new one may be."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as it came. `mid` is the handle that acknowledges it; with QoS 0 it is 0, and there is nothing to acknowledge."""

    topic: str
    payload: bytes
    mid: int
    qos: int = 1
    dup: bool = False
    retain: bool = False


class Connack(msgspec.Struct, frozen=True):
    """The answer to CONNECT: 0 is yes."""

    code: int
    session_present: bool


class Puback(msgspec.Struct, frozen=True):
    mid: int


class Suback(msgspec.Struct, frozen=True):
    """The answer to SUBSCRIBE: the QoS granted to each filter, or `REFUSED`."""

    mid: int
    codes: tuple[int, ...]


class Unsuback(msgspec.Struct, frozen=True):
    mid: int


class Pingresp(msgspec.Struct, frozen=True):
    pass


Packet = Connack | Puback | Suback | Unsuback | Pingresp


def connect(client_id: str, *, keepalive: int, clean: bool = False, user: str | None = None, password: str | None = None) -> bytes:
    """CONNECT; `keepalive` in seconds. A password without a user does not exist in 3.1.1 and is left out."""
    fields = [client_id] + ([user] if user is not None else []) + ([password] if user is not None and password is not None else [])
    flags = clean << 1 | (user is not None) << 7 | (len(fields) == 3) << 6
    return _packet(0x10, b"\0\4MQTT\4" + struct.pack(">BH", flags, keepalive) + b"".join(map(_text, fields)))


def subscribe(mid: int, filters: Sequence[str], qos: int = 1) -> bytes:
    """SUBSCRIBE to all filters with one packet."""
    return _packet(0x82, struct.pack(">H", mid) + b"".join(_text(pattern) + bytes((qos,)) for pattern in filters))


def unsubscribe(mid: int, filters: Sequence[str]) -> bytes:
    """UNSUBSCRIBE all filters with one packet."""
    return _packet(0xA2, struct.pack(">H", mid) + b"".join(map(_text, filters)))


def pubacks(mids: Collection[int]) -> bytes:
    """A PUBACK for each of `mids`, in their order."""
    return struct.pack(f">{len(mids)}I", *[0x40020000 | mid for mid in mids])


class Parser:
    """Bytes in, `messages` and `packets` out: two lists to which `feed` appends, and which the caller takes away.

    A PUBLISH of more than `limit` bytes (which is to be above 65,540, so that any topic fits) is cut to that size: it is
    then too long for anyone, but a broker that must deliver it would send it again for ever.
    """

    __slots__ = ("_limit", "_missing", "_rest", "_skip", "_topics", "messages", "packets")

    def __init__(self, limit: int = MAX_PACKET_BYTES) -> None:
        self.messages: list[Message] = []
        self.packets: list[Packet] = []
        self._limit = limit
        self._rest = bytearray()  # of a packet that is not complete
        self._missing = 0  # bytes without which it cannot be
        self._skip = 0  # bytes still to come of a packet that was cut
        self._topics: dict[bytes, str] = {}

    def feed(self, data: bytes) -> None:
        """Take in what came. ProtocolError where it is malformed: what stood before that is in the lists."""
        if self._missing > len(data):
            self._rest += data
            self._missing -= len(data)
            return
        if self._rest:
            self._rest += data
            data = bytes(self._rest)
            self._rest.clear()
        self._missing = 0
        limit, topics, append = self._limit, self._topics, self.messages.append
        end = len(data)
        position = min(self._skip, end)
        self._skip -= position
        while end - position > 1:
            first, length, start = data[position], data[position + 1], position + 2
            if length > 127:
                if start < end and data[start] < 128:
                    length += (data[start] << 7) - 128
                    start += 1
                else:
                    length, start = _long_length(data, position)
                    if not start:
                        break
            stop = start + length
            if length > limit:
                if first >> 4 != _PUBLISH:
                    raise ProtocolError(f"a packet of type {first >> 4} with {length} bytes")
                stop = start + limit
            if stop > end:
                if first >> 4 != _PUBLISH and first not in _PARSERS:
                    raise _unexpected(first)  # not to wait for the rest of what is no MQTT at all
                self._missing = stop - end
                break
            if first >> 4 == _PUBLISH:
                if length < 2:
                    raise ProtocolError("PUBLISH without a topic")
                behind = start + 2 + (data[start] << 8) + data[start + 1]
                name = data[start + 2 : behind]
                try:
                    topic = topics[name]
                except KeyError:
                    topic = self._learn(name)
                payload = behind + 2 if first & 6 else behind
                if payload > stop:
                    raise ProtocolError(f"PUBLISH of {length} bytes is shorter than its fields")
                if first == _PUBLISH_QOS_1:
                    message = Message(topic, data[payload:stop], data[behind] << 8 | data[behind + 1])
                else:
                    message = _uncommon(first, topic, data[behind:payload], data[payload:stop])
                if not message.mid and message.qos:
                    raise ProtocolError("PUBLISH with packet id 0")
                append(message)
                if length > limit:
                    stop = min(start + length, end)
                    self._skip = start + length - stop
            else:
                self.packets.append(_packet_of(first, data[start:stop]))
            position = stop
        if position < end:
            self._rest += data[position:]

    def _learn(self, name: bytes) -> str:
        topic = name.decode("utf-8", "backslashreplace")  # not an error: to be quarantined, not to break the session
        if len(name) <= _TOPIC_BYTES:
            if len(self._topics) >= _TOPICS:
                self._topics.clear()
            self._topics[name] = topic
        return topic


def _uncommon(first: int, topic: str, mid: bytes, payload: bytes) -> Message:
    qos, dup = first >> 1 & 3, bool(first & 8)
    if qos > 1:
        raise ProtocolError(f"PUBLISH with QoS {qos}, to which nobody has subscribed")
    if dup and not qos:
        raise ProtocolError("PUBLISH with QoS 0 that claims to be sent again")
    return Message(topic, payload, int.from_bytes(mid, "big"), qos, dup, bool(first & 1))


def _long_length(data: bytes, position: int) -> tuple[int, int]:
    """Remaining length and where what it measures begins; that is 0 where the length itself is not complete."""
    length = 0
    for n, byte in enumerate(data[position + 1 : position + 5]):
        length |= (byte & 127) << 7 * n
        if byte < 128:
            return length, position + n + 2
    if len(data) > position + 4:
        raise ProtocolError("remaining length of more than four bytes")
    return 0, 0


def _unexpected(first: int) -> ProtocolError:
    return ProtocolError(f"a packet that begins with {first:#04x}, which no broker sends to a subscriber at QoS 1")


def _packet_of(first: int, body: bytes) -> Packet:
    parse = _PARSERS.get(first)
    if parse is None:
        raise _unexpected(first)
    packet = parse(body)
    if packet is None:
        raise ProtocolError(f"{parse.__name__.lstrip('_').upper()} with {body[:8].hex(' ') or 'nothing'} in it")
    return packet


def _connack(body: bytes) -> Connack | None:
    return Connack(body[1], body[0] == 1) if len(body) == 2 and body[0] <= 1 else None


def _puback(body: bytes) -> Puback | None:
    return Puback(int.from_bytes(body, "big")) if len(body) == 2 else None


def _suback(body: bytes) -> Suback | None:
    return Suback(int.from_bytes(body[:2], "big"), tuple(body[2:])) if len(body) > 2 and set(body[2:]) <= {0, 1, 2, REFUSED} else None


def _unsuback(body: bytes) -> Unsuback | None:
    return Unsuback(int.from_bytes(body, "big")) if len(body) == 2 else None


def _pingresp(body: bytes) -> Pingresp | None:
    return None if body else Pingresp()


_PARSERS: Final[dict[int, Callable[[bytes], Packet | None]]] = {
    0x20: _connack,
    0x40: _puback,
    0x90: _suback,
    0xB0: _unsuback,
    0xD0: _pingresp,
}


def _packet(first: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return bytes((first,)) + length + body


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">H", len(data)) + data
