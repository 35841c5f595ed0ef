"""Whether a service lives and whether it can do its work, by HTTP for those who tend it: /healthz, /readyz, and /metrics.

A service reports on its parts (a line, the database, the broker) as often as it hears of them; a part of which nothing
was heard for a while counts as gone. So a service that hangs is not ready, whatever it said last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from mes.errors import ConfigError

BEAT_S: Final = 1.0
DEAD_S: Final = 30.0
"""A loop that has not turned for so long will not turn any more."""

log = logging.getLogger(__name__)

Answer = tuple[str, bytes]


class _Part(NamedTuple):
    says: str
    well: bool
    until: float


class Health:
    """What a service says of itself. Written by the service, read by the threads that answer requests."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._parts: dict[str, _Part] = {}

    def well(self, part: str, says: str, for_s: float = 30.0) -> None:
        """This part works, and will be heard of again within `for_s` seconds."""
        self._parts[part] = _Part(says, True, time.monotonic() + for_s)

    def ill(self, part: str, why: object) -> None:
        """This part does not work, until it is reported well."""
        self._parts[part] = _Part(str(why), False, float("inf"))

    def says(self, part: str) -> str | None:
        """What was last reported on a part."""
        return self._parts[part].says if part in self._parts else None

    def only(self, parts: Iterable[str]) -> None:
        """Forget all other parts."""
        kept = set(parts)
        self._parts = {part: report for part, report in self._parts.items() if part in kept}

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Meanwhile show that the loop turns."""

        async def beat() -> None:
            while True:
                self._beat = time.monotonic()
                await asyncio.sleep(BEAT_S)

        task = asyncio.create_task(beat(), name="beat")
        try:
            yield
        finally:
            task.cancel()

    def alive(self) -> Answer:
        """Status line and body: does the process live, and does its loop turn?"""
        still = time.monotonic() - self._beat
        reasons = [f"the loop has not turned for {still:.0f} s"] if still > DEAD_S else []
        return _answer("alive", reasons, {})

    def ready(self) -> Answer:
        """Status line and body: does every part work, as far as was heard lately?"""
        now, parts = time.monotonic(), dict(self._parts)
        reasons = [f"{part}: {report.says}" for part, report in parts.items() if not report.well]
        reasons += [f"{part}: nothing was heard of it for too long" for part, report in parts.items() if report.until < now]
        if not parts:
            reasons.append("starting")
        return _answer("ready", reasons, {part: report.says for part, report in parts.items()})


def serve(host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
    """Answer on host:port until the process ends; ConfigError where that cannot be had."""
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            found: Iterable[bytes] = metrics(environ, start)
            return found
        answers = {"/healthz": health.alive, "/readyz": health.ready}
        status, body = answers[path]() if path in answers else ("404 Not Found", b'{"error":"there are /metrics, /healthz and /readyz"}')
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start(status, headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else body]

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = make_server(host, port, application, _SERVERS[family], _Handler)
    except (OSError, OverflowError, KeyError) as why:
        raise ConfigError(
            f"metrics cannot be served on {host}:{port}: {why}; choose others with --metrics-host and --metrics-port"
        ) from why
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _answer(good: str, reasons: list[str], parts: dict[str, str]) -> Answer:
    body = msgspec.json.encode({"status": f"not {good}" if reasons else good, "reasons": reasons, "parts": parts})
    return "503 Service Unavailable" if reasons else "200 OK", body


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking the name service for our own name, as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, *_: Any) -> None:
        log.debug("a request was not answered", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


_SERVERS: Final[dict[int, type[_Server]]] = {socket.AF_INET: _Server, socket.AF_INET6: _Server6}


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: who scrapes does it all day."""
