"""A publisher that costs next to nothing, and a wire tap: MQTT 3.1.1 as bytes, so that what is measured is not the measuring."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np

WINDOW = 2000  # messages on their way to the broker


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    head, n = bytearray([kind]), len(body)
    while n > 127:
        head.append(n % 128 | 128)
        n //= 128
    return bytes(head) + bytes([n]) + body


def publishes(messages: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """PUBLISH packets at QoS 1, their numbers in turn."""
    return [_packet(0x32, _text(topic) + struct.pack(">H", i % 65535 + 1) + payload) for i, (topic, payload) in enumerate(messages)]


def connect(url: str, client_id: str = "", clean: bool = True) -> socket.socket:
    link = socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 1883))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(_packet(0x10, _text("MQTT") + bytes([4, 2 if clean else 0, 0, 0]) + _text(client_id)))
    answer = link.recv(4, socket.MSG_WAITALL)
    assert answer[0] == 0x20 and answer[3] == 0, answer
    return link


def hold_session(url: str, client_id: str, pattern: str) -> None:
    """Have the broker keep what is published on `pattern` for `client_id`, from now on."""
    with connect(url, client_id, clean=False) as link:
        link.sendall(_packet(0x82, b"\0\1" + _text(pattern) + b"\1"))
        answer = link.recv(5, socket.MSG_WAITALL)
        assert answer[0] == 0x90 and answer[4] == 1, answer
        link.sendall(b"\xe0\0")


def forget_session(url: str, client_id: str) -> None:
    with connect(url, client_id, clean=True) as link:
        link.sendall(b"\xe0\0")


def publish(url: str, packets: Sequence[bytes], rate: float = 0.0) -> np.ndarray:
    """Send these and wait for every PUBACK; returns when each was sent (s). As fast as the window allows, or at `rate` a second."""
    data = memoryview(b"".join(packets))
    ends = np.cumsum([len(p) for p in packets]).tolist()
    sent_at = np.zeros(len(packets))
    sent = acked = at = 0  # messages, acknowledgements in bytes, bytes
    with connect(url) as link:
        link.setblocking(False)
        began = time.time()
        while acked < 4 * len(packets):
            until = min(len(packets), acked // 4 + WINDOW)
            if rate:
                until = min(until, int((time.time() - began) * rate) + 1)
            full = False
            if until > sent:
                try:
                    at += link.send(data[at : min(ends[until - 1], at + (1 << 20))])
                    now = time.time()
                    while sent < until and ends[sent] <= at:
                        sent_at[sent] = now
                        sent += 1
                except BlockingIOError:
                    full = True
            try:
                while got := link.recv(1 << 16):
                    acked += len(got)
            except BlockingIOError:
                pass
            if full or sent == until:
                select.select([link], [link] if full else [], [], 0.002 if rate else 0.05)
        link.sendall(b"\xe0\0")
    return sent_at


class Tap:
    """Between a subscriber and its broker: when each message was delivered, and when its PUBACK came back.

    `delivered` is (time s, topic, payload, handle) in order; `acked` holds the times by handle: (connection, packet number).
    """

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._door.getsockname()[1]}"
        self.delivered: list[tuple[float, str, bytes, tuple[int, int]]] = []
        self.acked: dict[tuple[int, int], list[float]] = defaultdict(list)
        self._links: list[socket.socket] = []

    def __enter__(self) -> Tap:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for link in [self._door, *self._links]:
            link.close()

    def _serve(self) -> None:
        try:
            while True:
                client, _ = self._door.accept()
                broker = socket.create_connection((self._to.hostname or "", self._to.port or 1883))
                self._links += [client, broker]
                for source, sink in ((broker, client), (client, broker)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass, args=(source, sink, len(self._links)), daemon=True).start()
        except OSError:
            return

    def _pass(self, source: socket.socket, sink: socket.socket, link_number: int) -> None:
        kept = b""
        try:
            while got := source.recv(1 << 16):
                now = time.time()
                sink.sendall(got)
                kept = self._note(now, link_number, kept + got)
        except OSError:
            pass
        for link in (source, sink):
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _note(self, now: float, link: int, data: bytes) -> bytes:
        """Take down PUBLISH and PUBACK; returns what is not yet a whole packet."""
        at = 0
        while at + 2 <= len(data):
            size, shift, body = 0, 0, at + 1
            while body < len(data):
                byte = data[body]
                size |= (byte & 127) << shift
                shift, body = shift + 7, body + 1
                if byte < 128:
                    break
            else:
                break
            if body + size > len(data):
                break
            if data[at] & 0xF0 == 0x30 and data[at] & 6:
                number = body + 2 + int.from_bytes(data[body : body + 2], "big")
                handle = (link, int.from_bytes(data[number : number + 2], "big"))
                self.delivered.append((now, data[body + 2 : number].decode(), data[number + 2 : body + size], handle))
            elif data[at] == 0x40:
                self.acked[link, int.from_bytes(data[body : body + 2], "big")].append(now)
            at = body + size
        return data[at:]
