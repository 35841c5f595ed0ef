"""The board's server: the page, its stream of events, the same figures as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mes.board.feed import Feed, Reader
from mes.embedded import process
from mes.errors import ConfigError, Refused, Unavailable
from mes.tasks import stop_on_signals

log = logging.getLogger(__name__)

_FOLDER: Final = Path(__file__).resolve().parent
_PAGES: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/board.css": ("board.css", "text/css; charset=utf-8"),
    "/board.js": ("board.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def serve(database: str, host: str, port: int) -> None:
    """Serve the board until SIGTERM or SIGINT.

    database    URL; the program reads views of the schema `report` and writes nothing
    host, port  address to listen on; port 0 takes any free one

    Raises ConfigError if the address cannot be had, Refused if the database says no to the first reading. A database
    that does not answer, then or later, is waited for: pages say so.
    """
    with contextlib.closing(_listen(host, port)) as listening:
        asyncio.run(_serve(database, listening))


async def _serve(database: str, listening: socket.socket) -> None:
    stopping = stop_on_signals()
    refused: list[Refused | None] = []

    def ended(why: Refused | None) -> None:
        if not stopping.is_set():
            refused.append(why)
            stopping.set()

    pages = {path: (_FOLDER.joinpath(name).read_bytes(), kind) for path, (name, kind) in _PAGES.items()}
    feed = Feed(hashlib.sha256(b"".join(content for content, _ in pages.values())).hexdigest()[:12])
    reader = Reader(database, feed, ended)
    server = _Server(
        uvicorn.Config(
            application(feed, pages), http="h11", ws="none", lifespan="off", log_config=None, log_level="warning", access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    host, port = listening.getsockname()[:2]
    log.info("board: http://%s:%d", f"[{host}]" if ":" in host else host, port)
    reader.start()
    beating = asyncio.create_task(feed.beat(), name="beat")
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="serve")
    try:
        await stopping.wait()
    finally:
        reader.stop()
        beating.cancel()
        feed.close()  # else the server would wait for streams that never end
        server.should_exit = True
        await serving
    if refused:
        raise refused[0] or Unavailable("the board's reader ended by a fault: its trace is above")


def application(feed: Feed, pages: dict[str, tuple[bytes, str]]) -> ASGIApp:
    """The routes over a feed; `pages` holds content and media type of each path that never changes."""

    async def page(request: Request) -> Response:
        content, kind = pages[request.url.path]
        return Response(content, media_type=kind)

    async def events(request: Request) -> Response:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(feed.messages(), headers=headers, media_type="text/event-stream")

    async def now(_request: Request) -> Response:
        # who reads figures without reading the state shall not take old ones for new
        return Response(feed.now(), 200 if feed.is_live else 503, {"cache-control": "no-store"}, "application/json")

    async def healthz(_request: Request) -> Response:
        body = msgspec.json.encode({"status": "ok" if feed.is_live else "no data", "since": feed.state()["since"]})
        return Response(body, 200 if feed.is_live else 503, {"cache-control": "no-store"}, "application/json")

    missing = _FOLDER.joinpath("missing.html").read_bytes()

    async def problem(request: Request, why: Exception) -> Response:
        assert isinstance(why, HTTPException)
        if request.url.path.startswith("/api/"):
            body = msgspec.json.encode({"error": f"{why.detail}: the figures are at /api/now"})
            return Response(body, why.status_code, why.headers, "application/json")
        return Response(missing, why.status_code, why.headers, "text/html; charset=utf-8")

    routes = [Route(path, page) for path in pages]
    routes += [Route("/events", events), Route("/api/now", now), Route("/healthz", healthz)]
    return _with_headers(Starlette(routes=routes, exception_handlers={HTTPException: problem}))


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Around everything, so that answers to errors carry the headers too."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


class _Server(uvicorn.Server):
    """Leaves signals to us, who must end the streams first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: give a number from 1 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as why:
        raise ConfigError(f"--host {host}: is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all of them") from why
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as why:
        if why.errno == errno.EADDRINUSE:
            text = f"port {port} is taken by {process.listener(port)}: stop that, or give the board another one with --port"
        elif why.errno == errno.EACCES:
            text = f"port {port} is not for this user: give the board one above 1023 with --port"
        else:
            text = f"--host {host}: cannot be listened on ({why.strerror}): use 127.0.0.1, or 0.0.0.0 for all addresses"
        raise ConfigError(text) from why
