"""MQTT 3.1.1 as bytes: what paho encodes parses to what went in, however it is sliced; what we encode is what paho would."""

from __future__ import annotations

import itertools
import struct

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mes import mqtt
from mes.mqtt import Connack, Message, Packet, Parser, Pingresp, ProtocolError, Puback, Suback, Unsuback

LIMIT = 70_000
MIDS = st.integers(1, 65535)
FILTERS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), min_size=1, max_size=5)


class Encoder(paho.Client):
    """paho, writing into a buffer."""

    def __init__(self, client_id: str = "", clean: bool = True) -> None:
        super().__init__(paho.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=clean, protocol=paho.MQTTv311)
        self._sock = object()  # type: ignore[assignment]
        self.written = b""

    def _packet_queue(self, _command: int, packet: bytes, *_: object) -> paho.MQTTErrorCode:  # type: ignore[override]
        self.written += packet
        return paho.MQTTErrorCode.MQTT_ERR_SUCCESS

    def __del__(self) -> None:
        self._sock = None


def encoded(packet: Message | Packet) -> bytes:
    """As a broker would send it: by paho where it can, else by the letter of the standard."""
    encoder = Encoder()
    match packet:
        case Message(topic, payload, mid, qos, dup, retain):
            encoder._send_publish(mid, topic.encode(), payload, qos, retain, dup)
        case Puback(mid):
            encoder._send_puback(mid)
        case Unsuback(mid):
            encoder._send_command_with_mid(0xB0, mid, False)
        case Pingresp():
            encoder._send_pingresp()
        case Connack(code, session_present):
            return bytes((0x20, 2, session_present, code))
        case Suback(mid, codes):
            return struct.pack(">BBH", 0x90, 2 + len(codes), mid) + bytes(codes)
    return encoder.written


@st.composite
def messages(draw: st.DrawFn) -> Message:
    topic = draw(st.one_of(st.sampled_from(["a/b", "umh/v1/cbak/nanjing/cells/32140-1/wnd/03/_cell_v1/completed"]), st.text(max_size=300)))
    size = draw(st.one_of(st.integers(0, 300), st.sampled_from([16_000, 16_384, 66_000])))
    payload = (draw(st.binary(max_size=40)) * (size + 1))[:size]
    if draw(st.booleans()):
        return Message(topic, payload, draw(MIDS), 1, draw(st.booleans()), draw(st.booleans()))
    return Message(topic, payload, 0, 0, False, draw(st.booleans()))


CONTROLS: st.SearchStrategy[Packet] = st.one_of(
    st.builds(Connack, st.integers(0, 255), st.booleans()),
    st.builds(Puback, MIDS),
    st.builds(Suback, MIDS, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=120).map(tuple)),
    st.builds(Unsuback, MIDS),
    st.just(Pingresp()),
)


def parsed(stream: bytes, cuts: list[int], limit: int = LIMIT) -> tuple[list[Message], list[Packet], bool]:
    """Messages, other packets, and whether the stream is malformed, with the stream cut at these places."""
    parser = Parser(limit)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for begin, end in itertools.pairwise(places):
            parser.feed(stream[begin:end])
            assert len(parser._rest) < limit + 5
    except ProtocolError:
        return parser.messages, parser.packets, True
    return parser.messages, parser.packets, False


CUTS = st.one_of(st.lists(st.integers(0, 2**20), max_size=20), st.just(list(range(3000))))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(messages(), CONTROLS), max_size=12), CUTS)
def test_any_packets_in_any_slices_parse_to_the_same(packets: list[Message | Packet], cuts: list[int]) -> None:
    stream = b"".join(map(encoded, packets))
    expected = [p for p in packets if isinstance(p, Message)], [p for p in packets if not isinstance(p, Message)], False
    assert parsed(stream, cuts) == expected
    assert parsed(stream, []) == expected


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Packets of which some bytes are others, or missing; now and then no packets at all."""
    stream = bytearray(b"".join(map(encoded, draw(st.lists(st.one_of(messages(), CONTROLS), max_size=6)))) + draw(st.binary(max_size=20)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(-1, 255)), max_size=4)):
        if stream and value < 0:
            del stream[place % len(stream)]
        elif stream:
            stream[place % len(stream)] = value
    return bytes(stream)


@settings(max_examples=500, deadline=None)
@given(damaged(), CUTS, st.sampled_from([LIMIT, 1 << 28]))
def test_damaged_streams_are_errors_or_packets_and_slicing_does_not_matter(stream: bytes, cuts: list[int], limit: int) -> None:
    assert parsed(stream, cuts, limit) == parsed(stream, [], limit)


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"\x32\xff\xff\xff\xff\x01", "remaining length"),
        (b"\xd0\x80\x80\x80\x80", "remaining length"),
        (b"\x90\xff\xff\x7f", "2097151 bytes"),
        (b"\x34\x07\x00\x01a\x00\x01xy", "QoS 2"),
        (b"\x36\x07\x00\x01a\x00\x01xy", "QoS 3"),
        (b"\x38\x05\x00\x01axy", "QoS 0"),
        (b"\x32\x07\x00\x01a\x00\x00xy", "packet id 0"),
        (b"\x32\x00", "without a topic"),
        (b"\x32\x01\x00", "without a topic"),
        (b"\x32\x04\x00\x01a\x00", "shorter than its fields"),
        (b"\x30\x04\x00\x03ab\x30\x04", "shorter than its fields"),
        (b"\x30\x02\xff\xff", "shorter than its fields"),
        (b"\x21\x02\x00\x00", "0x21"),
        (b"\x42\x02\x00\x01", "0x42"),
        (b"\x62\x02\x00\x01", "0x62"),
        (b"\x10\x02\x00\x01", "0x10"),
        (b"HTTP/1.1 400", "0x48"),
        (b"\x00\x00", "0x00"),
        (b"\xe0\x00", "0xe0"),
        (b"\x20\x02\x02\x00", "CONNACK with 02 00"),
        (b"\x20\x03\x00\x00\x00", "CONNACK"),
        (b"\x40\x01\x00", "PUBACK"),
        (b"\x90\x02\x00\x01", "SUBACK"),
        (b"\x90\x03\x00\x01\x03", "SUBACK"),
        (b"\xb0\x00", "UNSUBACK with nothing"),
        (b"\xd0\x01\x00", "PINGRESP"),
    ],
)
def test_what_is_malformed_is_said(stream: bytes, says: str) -> None:
    good = Message("a", b"x", 7)
    parser = Parser(LIMIT)
    with pytest.raises(ProtocolError, match=says) as error:
        parser.feed(encoded(good) + stream)
    assert "\n" not in str(error.value)
    assert parser.messages == [good]


@given(st.binary(min_size=1, max_size=20), CUTS)
@example(b"\xff/a", [])
def test_a_topic_that_is_not_text_is_handed_on(name: bytes, cuts: list[int]) -> None:
    body = struct.pack(">H", len(name)) + name + b"\0\1payload"
    expected = Message(name.decode("utf-8", "backslashreplace"), b"payload", 1)
    assert parsed(bytes((0x32, len(body))) + body, cuts) == ([expected], [], False)


@settings(deadline=None)
@given(st.integers(LIMIT - 100, LIMIT + 300_000), CUTS)
def test_a_message_beyond_the_limit_is_cut_and_its_neighbours_are_whole(size: int, cuts: list[int]) -> None:
    good = Message("a", b"x", 7)
    long = Message("a/long/one", bytes(size), 8, retain=True)
    got, packets, malformed = parsed(b"".join(map(encoded, (good, long, good, Pingresp()))), cuts)
    whole = len(b"\0\x0aa/long/one\0\x08") + size
    assert not malformed
    assert packets == [Pingresp()]
    assert [got[0], got[2:]] == [good, [good]]
    assert (got[1].topic, got[1].mid, got[1].retain) == ("a/long/one", 8, True)
    assert len(got[1].payload) == size - max(0, whole - LIMIT)


def test_the_same_topic_is_the_same_string_and_not_all_are_remembered() -> None:
    parser = Parser()
    parser.feed(encoded(Message("some/topic", b"", 1)) * 2)
    assert parser.messages[0].topic is parser.messages[1].topic
    for n in range(10_000):
        parser.feed(encoded(Message(f"topic/{n}", b"", 1)) + encoded(Message(f"{n}" + "x" * 300, b"", 1)))
    assert [m.topic for m in parser.messages[2::2]] == [f"topic/{n}" for n in range(10_000)]
    assert len(parser._topics) <= 4096
    assert max(map(len, parser._topics)) <= 256


@given(
    st.text(min_size=1, max_size=40),
    st.integers(1, 65535),
    st.booleans(),
    st.one_of(st.none(), st.text(max_size=200)),
    st.one_of(st.none(), st.text(max_size=200)),
)
def test_connect_is_as_paho_encodes_it(client_id: str, keepalive: int, clean: bool, user: str | None, password: str | None) -> None:
    encoder = Encoder(client_id, clean)
    encoder.username_pw_set(user, password if user is not None else None)
    encoder._send_connect(keepalive)
    assert mqtt.connect(client_id, keepalive=keepalive, clean=clean, user=user, password=password) == encoder.written


@given(MIDS, FILTERS)
def test_subscriptions_are_as_paho_encodes_them(mid: int, filters: list[str]) -> None:
    encoder = Encoder()
    encoder._last_mid = mid - 1
    encoder._send_subscribe(0, [(pattern.encode(), 1) for pattern in filters])
    encoder._last_mid = mid - 1
    encoder._send_unsubscribe(0, [pattern.encode() for pattern in filters])
    assert mqtt.subscribe(mid, filters) + mqtt.unsubscribe(mid, filters) == encoder.written


@given(st.lists(MIDS, max_size=50))
def test_the_rest_is_as_paho_encodes_it(mids: list[int]) -> None:
    encoder = Encoder()
    for mid in mids:
        encoder._send_puback(mid)
    encoder._send_pingreq()
    encoder._send_disconnect()
    assert mqtt.pubacks(mids) + mqtt.PINGREQ + mqtt.DISCONNECT == encoder.written
