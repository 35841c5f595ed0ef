"""Links that break, brokers that fall silent or say no, TLS: what a session does when things are not as they should be."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mes import session as session_module
from mes.broker import Message, Publisher, Session
from mes.errors import Refused, Unavailable
from tests.pipeline import Gateway
from tests.servers import Mosquitto, free_port, missing, wait_for

YES = b"\x20\x02\x00\x00"
RESUMED = b"\x20\x02\x01\x00"
GRANTED = b"\x90\x03\x00\x01\x01"


def publish(n: int, size: int = 10) -> bytes:
    """A PUBLISH with packet id n on the topic "t"."""
    body = b"\0\1t" + n.to_bytes(2, "big") + bytes(size)
    return bytes((0x32, len(body) & 127 | 128, len(body) >> 7)) + body


class Scripted(threading.Thread):
    """A broker for one connection: `greeting` answers CONNECT, `granted` SUBSCRIBE; pings are answered unless `mute`."""

    def __init__(self, greeting: bytes = YES, granted: bytes = GRANTED, mute: bool = False, closes: bool = True) -> None:
        super().__init__(daemon=True)
        self.greeting, self.granted, self.mute, self.closes = greeting, granted, mute, closes
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://user:secret@127.0.0.1:{self.server.getsockname()[1]}"
        self.packets: list[bytes] = []
        self.link: socket.socket | None = None

    def seen(self, first: int) -> int:
        return sum(packet[0] == first for packet in self.packets)

    def run(self) -> None:
        self.link, _ = self.server.accept()
        buffer = b""
        with contextlib.suppress(OSError):
            while data := self.link.recv(65536):
                buffer += data
                while len(buffer) > 1 and len(buffer) >= 2 + buffer[1]:  # all packets of these tests are short
                    packet, buffer = buffer[: 2 + buffer[1]], buffer[2 + buffer[1] :]
                    self.packets.append(packet)
                    answer = {0x10: self.greeting, 0x82: self.granted, 0xC0: b"" if self.mute else b"\xd0\x00"}.get(packet[0], b"")
                    self.link.sendall(answer)
                    if packet[0] == 0xE0 and self.closes:
                        self.link.close()
                        return

    def __enter__(self) -> Scripted:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        if self.link:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_RDWR)
            self.link.close()
        self.join(10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepalive and deadlines in tenths of a second."""
    monkeypatch.setattr(session_module, "_KEEPALIVE_S", 0.2)
    monkeypatch.setattr(session_module, "_ANSWER_S", 0.5)


async def until(condition, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what a thread has seen sets no event
            await asyncio.sleep(0.01)


def test_a_broker_that_falls_silent_is_noticed(quick: None) -> None:
    async def run(url: str) -> None:
        async with Session(url, "x", ["x/+"]) as session, asyncio.timeout(30):
            await session.receive()

    with Scripted(mute=True) as broker, pytest.raises(Unavailable, match="nothing came for") as error:
        asyncio.run(run(broker.url))
    assert "secret" not in str(error.value)
    assert broker.seen(0xC0) == 3


def test_a_quiet_session_is_kept_alive(quick: None) -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"]) as session:
            receiving = asyncio.create_task(session.receive())
            await until(lambda: broker.seen(0xC0) >= 8 or receiving.done())
            broker.link.sendall(publish(1))  # type: ignore[union-attr]
            assert [m.mid for m in await receiving] == [1]

    with Scripted() as broker:
        asyncio.run(run(broker))


def test_silence_says_nothing_while_we_do_not_read_but_pings_go_on(quick: None) -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"], limit=1000) as session:
            await until(lambda: session._paused)
            await until(lambda: broker.seen(0xC0) >= 8 or session._failure)
            broker.link.sendall(publish(3))  # type: ignore[union-attr]
            assert [m.mid for m in await session.receive(1)] == [1, 2]
            assert [m.mid for m in await asyncio.wait_for(session.receive(), 30)] == [3]

    with Scripted(greeting=YES + publish(1, 600) + publish(2, 600)) as broker:
        asyncio.run(run(broker))


def test_a_broker_is_not_blamed_when_the_program_itself_was_held_up(quick: None) -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"]) as session:
            await until(lambda: broker.seen(0xC0) >= 1)
            time.sleep(2.0)  # noqa: ASYNC251 - ten keepalives
            pings = broker.seen(0xC0)
            await until(lambda: broker.seen(0xC0) >= pings + 5 or session._failure)
            assert session._failure is None

    with Scripted() as broker:
        asyncio.run(run(broker))


def test_a_link_that_ends_is_noticed_and_what_came_before_is_handed_out() -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"]) as session:
            await asyncio.wait_for(session.established.wait(), 10)
            broker.link.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            messages = await asyncio.wait_for(session.receive(), 30)
            assert [m.mid for m in messages] == [7]
            with pytest.raises(Unavailable, match="closed"):
                await asyncio.wait_for(session.receive(), 30)
            session.ack(messages)  # on a connection that has gone: nothing

    with Scripted(greeting=RESUMED + publish(7)) as broker:
        asyncio.run(run(broker))
    assert broker.seen(0x40) == 0


def test_what_is_not_mqtt_ends_the_session_and_what_came_before_is_handed_out() -> None:
    async def run(url: str) -> None:
        async with Session(url, "x", ["x/+"]) as session, asyncio.timeout(30):
            assert [m.mid for m in await session.receive()] == [7]
            await session.receive()

    broken = Scripted(greeting=RESUMED + publish(7) + b"HTTP/1.1 400 Bad Request")
    with broken as broker, pytest.raises(Unavailable, match=r"does not speak MQTT 3\.1\.1"):
        asyncio.run(run(broker.url))


def test_messages_right_behind_the_greeting_are_kept_and_acked_in_one_piece() -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"]) as session:
            assert session.established.is_set()
            messages = await asyncio.wait_for(session.receive(), 30)
            assert [m.mid for m in messages] == [1, 2, 3]
            session.ack(messages)

    with Scripted(greeting=RESUMED + b"".join(map(publish, (1, 2, 3))), granted=b"") as broker:  # SUBACK is behind a backlog
        asyncio.run(run(broker))
    assert [p for p in broker.packets if p[0] == 0x40] == [b"\x40\x02\x00\x01", b"\x40\x02\x00\x02", b"\x40\x02\x00\x03"]
    assert broker.packets[-1] == b"\xe0\x00"


def test_a_session_with_retired_filters_is_established_when_they_are_gone() -> None:
    async def run(broker: Scripted) -> None:
        async with Session(broker.url, "x", ["x/+"], retired=["y", "x/+"]) as session:
            await until(lambda: broker.seen(0x82))
            assert not session.established.is_set()
            broker.link.sendall(b"\xb0\x02\x00\x02" + GRANTED)  # type: ignore[union-attr]
            await asyncio.wait_for(session.established.wait(), 10)

    with Scripted(greeting=RESUMED, granted=b"") as broker:
        asyncio.run(run(broker))
    assert [p for p in broker.packets if p[0] == 0xA2] == [b"\xa2\x05\x00\x02\x00\x01y"]


def test_leaving_a_broker_that_does_not_close_comes_to_an_end() -> None:
    async def run(url: str) -> None:
        async with Session(url, "x", ["x/+"]):
            pass

    with Scripted(closes=False) as broker:
        asyncio.run(asyncio.wait_for(run(broker.url), 30))
        wait_for(lambda: broker.packets[-1] == b"\xe0\x00", what="DISCONNECT")


async def connect(url: str) -> None:
    async with Session(url, "x", ["x/a", "x/b"]) as session, asyncio.timeout(30):
        await session.receive()


@pytest.mark.parametrize(
    ("greeting", "granted", "error", "says"),
    [
        (b"\x20\x02\x00\x01", b"", Refused, "protocol version.*MES_BROKER_URL"),
        (b"\x20\x02\x00\x02", b"", Refused, "client id.*MES_BROKER_URL"),
        (b"\x20\x02\x00\x04", b"", Refused, "user name or password.*MES_BROKER_URL"),
        (b"\x20\x02\x00\x05", b"", Refused, "not authorised.*MES_BROKER_URL"),
        (b"\x20\x02\x00\x03", b"", Unavailable, "not available"),
        (b"\x20\x02\x00\x77", b"", Unavailable, "not available"),
        (b"", b"", Unavailable, "no answer within"),
        (b"SSH-2.0-OpenSSH\r\n", b"", Unavailable, "does not speak MQTT"),
        (YES, b"\x90\x04\x00\x01\x01\x80", Refused, "refused the subscription x/b"),
    ],
)
def test_a_no_says_what_to_do(quick: None, greeting: bytes, granted: bytes, error: type[Exception], says: str) -> None:
    with Scripted(greeting, granted) as broker, pytest.raises(error, match=says) as raised:
        asyncio.run(connect(broker.url))
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("mqtt://no-such-host.invalid", Unavailable, "no-such-host"),
        ("mqtt://two..dots", Refused, "no host name.*MES_BROKER_URL"),
        ("mqtt://127.0.0.1:1", Unavailable, "127.0.0.1"),
    ],
)
def test_a_host_that_is_not_there(url: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        asyncio.run(connect(url))
    assert "\n" not in str(raised.value)


def test_acks_given_right_before_leaving_are_taken_before_the_session_can_be_taken_over(mosquitto: str) -> None:
    """Mosquitto reads a packet a round, and drops what it has not read when another connection asks for the session."""

    async def taken(session: Session, n: int) -> list[Message]:
        messages: list[Message] = []
        async with asyncio.timeout(60):
            while len(messages) < n:
                messages += await session.receive()
        return messages

    async def run(name: str) -> int:
        async with Session(mosquitto, name, [f"{name}/t"]) as session:
            await asyncio.wait_for(session.established.wait(), 10)
            with Gateway(mosquitto) as gateway:
                await asyncio.to_thread(gateway.send, [(f"{name}/t", b"x")] * 1000)
            session.ack((await taken(session, 1000))[:999])
        async with Session(mosquitto, name, [f"{name}/t"]) as session:
            again = await taken(session, 1)
            session.ack(again)
            return len(again)

    assert [asyncio.run(run(f"leaving-{n}")) for n in range(5)] == [1] * 5


def test_a_broker_that_dies_is_unavailable_and_the_next_session_resumes(mosquitto_of_mine: Mosquitto) -> None:
    broker = mosquitto_of_mine

    async def run() -> None:
        async with Session(broker.url, "dies", ["t"]) as session:
            await asyncio.wait_for(session.established.wait(), 10)
            await asyncio.to_thread(send, broker.url, b"1", b"2")
            first: list[Message] = []
            while len(first) < 2:
                first += await asyncio.wait_for(session.receive(), 30)
            assert broker.process
            broker.process.terminate()
            with pytest.raises(Unavailable):
                await asyncio.wait_for(session.receive(), 30)
            session.ack(first)
        with pytest.raises(Unavailable):
            await connect(broker.url)
        await asyncio.to_thread(broker.process.wait)
        await asyncio.to_thread(broker.start)
        async with Session(broker.url, "dies", ["t"]) as session:
            assert session.established.is_set()
            again: list[Message] = []
            while len(again) < 2:
                again += await asyncio.wait_for(session.receive(), 30)
            assert [(m.payload, m.dup) for m in again] == [(b"1", True), (b"2", True)]
            session.ack(again)

    asyncio.run(run())


def send(url: str, *payloads: bytes) -> None:
    with Gateway(url) as gateway:
        gateway.send(("t", payload) for payload in payloads)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem) and a server's certificate for 127.0.0.1 (server.pem, server.key)."""
    folder = tmp_path_factory.mktemp("certificates")
    if not shutil.which("openssl"):
        missing("openssl", "openssl")
    request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for *words, subject in (
        ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "/CN=authority of a test"],
        ["-x509", "-keyout", "server.key", "-out", "server.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-addext",
         "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "/CN=127.0.0.1"],
    ):  # fmt: skip
        subprocess.run([*request, *words, "-subj", subject], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def secure(certificates: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto that also listens with TLS."""
    port = free_port()
    with Mosquitto(
        tmp_path, f"listener {port} 127.0.0.1\ncertfile {certificates}/server.pem\nkeyfile {certificates}/server.key\n"
    ) as broker:
        broker.secure_url = f"mqtts://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield broker


def test_a_session_over_tls(secure: Mosquitto, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    url, n = secure.secure_url, 2000  # type: ignore[attr-defined]

    async def run() -> None:
        async with Session(url, "tls", ["t"], limit=100_000) as session:
            await asyncio.wait_for(session.established.wait(), 10)
            with Gateway(secure.url) as gateway:
                await asyncio.to_thread(gateway.send, [("t", b"%d " % i + bytes(1000)) for i in range(n)])
            await until(lambda: session._paused)
            got: list[int] = []
            async with asyncio.timeout(60):
                while len(got) < n:
                    messages = await session.receive(50_000)
                    got += [int(m.payload.split(b" ")[0]) for m in messages]
                    session.ack(messages[:-1] if len(got) == n else messages)
            assert got == list(range(n))
        async with Session(url, "tls", ["t"]) as session:
            assert [m.payload[:5] for m in await asyncio.wait_for(session.receive(), 30)] == [b"%d " % (n - 1)]

    asyncio.run(run())


def test_tls_that_cannot_be_trusted_is_refused_in_one_line(secure: Mosquitto) -> None:
    url = secure.secure_url  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=r"its certificate is not trusted \(unable to get local issuer.*: set MES_BROKER_CA") as raised:
        asyncio.run(connect(url))
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho forgets to close the socket
def test_a_publisher_refuses_tls_that_cannot_be_trusted_too(secure: Mosquitto) -> None:
    url = secure.secure_url  # type: ignore[attr-defined]
    with contextlib.suppress(Refused):
        asyncio.run(asyncio.wait_for(Publisher(url, "x").run(), 30))
        pytest.fail("it went on")
    gc.collect()


@pytest.mark.parametrize("broker", ["embedded_broker", "mosquitto"])
def test_filters_of_an_earlier_version_do_not_linger(broker: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(broker)

    async def visit(filters: list[str], retired: list[str]) -> None:
        async with Session(url, "versions", filters, retired=retired) as session:
            await asyncio.wait_for(session.established.wait(), 10)

    async def arriving() -> list[bytes]:
        got: list[bytes] = []
        async with Session(url, "versions", ["versions/new"]) as session, asyncio.timeout(30):
            while b"last" not in got:
                messages = await session.receive()
                session.ack(messages)
                got += [m.payload for m in messages]
        return got

    asyncio.run(visit(["versions/old/+", "versions/older", "versions/new"], []))
    asyncio.run(visit(["versions/new"], ["versions/old/+", "versions/older"]))
    with Gateway(url) as gateway:
        gateway.send([("versions/old/x", b"old")])
        gateway.send([("versions/older", b"older")])
        gateway.send([("versions/new", b"last")])
    assert asyncio.run(arriving()) == [b"last"]


def test_a_topic_that_is_not_text_does_not_break_the_session() -> None:
    bad = b"\x32\x07\x00\x02\xff/\x00\x01x"

    async def run(url: str) -> None:
        async with Session(url, "x", ["x/+"]) as session:
            assert [(m.topic, m.mid) for m in await asyncio.wait_for(session.receive(), 30)] == [("\\xff/", 1), ("t", 2)]

    with Scripted(greeting=RESUMED + bad + publish(2)) as broker:
        asyncio.run(run(broker.url))
