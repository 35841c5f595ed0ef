"""A service that hangs is not alive, one of whose parts nothing is heard is not ready; the age of marks is what was seen of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mes import health as module
from mes.errors import ConfigError, Unavailable
from mes.health import DEAD_S, Health, serve
from mes.watch import Waiting
from tests.servers import free_port


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def state(answer: tuple[str, bytes]) -> tuple[int, list[str]]:
    body = json.loads(answer[1])
    assert (body["status"].startswith("not ")) == bool(body["reasons"])
    return int(answer[0].split()[0]), body["reasons"]


def test_nothing_heard_yet_is_alive_and_not_ready(clock: Clock) -> None:
    health = Health()
    assert state(health.alive()) == (200, [])
    assert state(health.ready()) == (503, ["starting"])


def test_a_loop_that_does_not_turn_is_dead(clock: Clock) -> None:
    health = Health()

    async def main() -> None:
        async with health.beating():
            clock.now += DEAD_S + 1
            assert state(health.alive()) == (503, [f"the loop has not turned for {DEAD_S + 1:.0f} s"])
            await asyncio.sleep(0)
            assert state(health.alive()) == (200, [])

    asyncio.run(main())
    clock.now += DEAD_S - 1
    assert state(health.alive()) == (200, [])


def test_ready_is_when_every_part_is_well_and_was_heard_of(clock: Clock) -> None:
    health = Health()
    health.well("database", "answers", 10)
    health.well("a", "holds the line", 100)
    assert state(health.ready()) == (200, [])
    clock.now += 11
    assert state(health.ready()) == (503, ["database: nothing was heard of it for too long"])
    health.ill("a", Unavailable("gone"))
    health.well("database", "answers", 10)
    assert state(health.ready()) == (503, ["a: gone"])
    clock.now += 1e6
    health.well("database", "answers", 10)
    assert state(health.ready()) == (503, ["a: gone"]), "ill until it is well again"
    health.only(["database"])
    assert state(health.ready()) == (200, [])
    assert health.says("a") is None


def get(port: int, path: str, method: str = "GET") -> tuple[int, Any, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as why:
        with why:
            return why.code, why.headers, why.read()


def test_it_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    port, health = free_port(), Health()
    serve("127.0.0.1", port, CollectorRegistry(), health)
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/metrics")[0] == 200
    code, headers, body = get(port, "/readyz")
    assert (code, headers["content-type"], json.loads(body)) == (
        503, "application/json", {"status": "not ready", "reasons": ["starting"], "parts": {}},
    )  # fmt: skip
    assert get(port, "/readyz", "HEAD")[::2] == (503, b"")
    assert get(port, "/")[0] == 404
    health.well("database", "answers")
    assert get(port, "/readyz")[0] == 200
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"GET /readyz HTTP/1.1\r\n")
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"\0\xff nonsense\r\n\r\n")
        rude.recv(100)
    assert get(port, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_said(host: str) -> None:
    with contextlib.ExitStack() as taken:
        port = free_port()
        if host in ("127.0.0.1", "::1"):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with contextlib.suppress(OSError):  # a machine without IPv6 has no such address either
                taken.enter_context(socket.create_server((host, port), family=family))
        with pytest.raises(ConfigError, match=r"metrics cannot be served on .*; choose others with --metrics-host and --metrics-port"):
            serve(host, port, CollectorRegistry(), Health())


def test_the_age_of_marks_is_what_was_seen_of_it() -> None:
    waiting = Waiting()
    assert waiting.age_s(5.0) == 0
    waiting.look(10.0, 2, 1, 2)
    assert waiting.age_s(10.0) == 0
    waiting.look(15.0, 3, 2, 5)  # 1 has gone, 2 was there before
    assert waiting.age_s(15.0) == 5.0
    waiting.look(20.0, 1, 4, 5)  # 2 has gone, 4 was first covered by the second look
    assert waiting.age_s(20.0) == 5.0
    assert waiting.age_s(23.0) == 8.0, "and grows while nobody looks"
    waiting.look(25.0, 1, 9, 9)
    assert waiting.age_s(25.0) == 0
    waiting.look(30.0, 0, 0, 0)
    assert waiting.age_s(31.0) == 0
    assert time.monotonic() > 0
