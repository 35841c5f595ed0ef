"""What the board answers: its pages, which are the same file at every address, the stream, and figures as JSON."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mes.board.details import Details
from mes.board.feed import Feed
from mes.errors import Refused, Unavailable

log = logging.getLogger(__name__)

_FOLDER: Final = Path(__file__).resolve().parent / "page"
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    "": "text/plain; charset=utf-8",  # licences
}
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_NO_STORE: Final = {"cache-control": "no-store"}
_LINE: Final = "/line/{site}/{area}/{code}"
_MISSING: Final = {
    "line": "There is no such line",
    "day": "No such production day of this line is known",
    "station": "This line has no such station",
    "unit": "No cell with this serial has been reported",
}

Files = dict[str, tuple[bytes, str]]


def files() -> Files:
    """By path, content and media type of everything that never changes."""
    found = {path.relative_to(_FOLDER).as_posix(): path for path in sorted(_FOLDER.rglob("*")) if path.is_file()}
    return {f"/{name}": (path.read_bytes(), _KINDS[path.suffix]) for name, path in found.items()}


def version(of: Files) -> str:
    """Changes with any of the files."""
    return hashlib.sha256(b"".join(content for content, _ in of.values())).hexdigest()[:12]


def application(feed: Feed, details: Details, static: Files) -> ASGIApp:
    """The routes over a feed, with `static` files."""
    page, missing = static["/index.html"][0], static["/missing.html"][0]

    async def file(request: Request) -> Response:
        content, kind = static[request.url.path]
        return Response(content, media_type=kind)

    async def icon(_request: Request) -> Response:
        content, kind = static["/icon.svg"]
        return Response(content, media_type=kind)

    async def home(_request: Request) -> Response:
        return Response(page, media_type=_KINDS[".html"])

    async def events(request: Request) -> Response:
        headers = _NO_STORE | {"x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(feed.messages(), headers=headers, media_type="text/event-stream")

    async def now(_request: Request) -> Response:
        # who reads figures without reading the state shall not take old ones for new
        return Response(feed.now(), 200 if feed.is_live else 503, _NO_STORE, "application/json")

    async def healthz(_request: Request) -> Response:
        body = msgspec.json.encode({"status": "ok" if feed.is_live else "no data", "since": feed.state()["since"]})
        return Response(body, 200 if feed.is_live else 503, _NO_STORE, "application/json")

    async def day(request: Request) -> bytes:
        return await _found("day", details.day(_line(request, feed), _day(request)))

    async def station(request: Request) -> bytes:
        on = _day(request) if "day" in request.path_params else None
        return await _found("station", details.station(_line(request, feed), request.path_params["station"], on))

    async def unit(request: Request) -> bytes:
        return await _found("unit", details.unit(request.query_params.get("serial", "").strip()))

    async def line(request: Request) -> bytes:
        _line(request, feed)
        return b""

    def page_of(ask: Callable[[Request], Awaitable[bytes]]) -> Callable[[Request], Awaitable[Response]]:
        """The page, if there is what it is to show. Without a database nobody knows: the page will say so."""

        async def answer(request: Request) -> Response:
            try:
                await ask(request)
            except (Unavailable, Refused) as why:
                log.warning("%s", why)
            return Response(page, media_type=_KINDS[".html"])

        return answer

    def json_of(ask: Callable[[Request], Awaitable[bytes]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return Response(await ask(request), 200, _NO_STORE, "application/json")
            except (Unavailable, Refused) as why:
                log.warning("%s", why)
                body = msgspec.json.encode({"error": "the database does not answer: try again in a moment"})
                return Response(body, 503, _NO_STORE, "application/json")

        return answer

    async def problem(request: Request, why: Exception) -> Response:
        assert isinstance(why, HTTPException)
        if request.url.path.startswith("/api/"):
            body = msgspec.json.encode({"error": f"{why.detail}: the figures are at /api/now"})
            return Response(body, why.status_code, why.headers, "application/json")
        said = missing.replace(b"There is no such page here", why.detail.encode()) if why.detail in _MISSING.values() else missing
        return Response(said, why.status_code, why.headers, _KINDS[".html"])

    routes = [Route(path, file) for path in static if not path.endswith(".html")]
    routes += [Route("/", home), Route("/favicon.ico", icon), Route("/events", events), Route("/api/now", now), Route("/healthz", healthz)]
    for path, ask in (
        (f"{_LINE}/station/{{station}}", station),
        (f"{_LINE}/{{day}}/station/{{station}}", station),
        (f"{_LINE}/{{day}}", day),
        ("/unit", unit),
    ):
        routes += [Route(path, page_of(ask)), Route(f"/api{path}", json_of(ask))]
    routes.append(Route(_LINE, page_of(line)))
    return _with_headers(Starlette(routes=routes, exception_handlers={HTTPException: problem}))


async def _found(what: str, answer: Awaitable[bytes | None]) -> bytes:
    found = await answer
    if found is None:
        raise HTTPException(404, _MISSING[what])
    return found


def _line(request: Request, feed: Feed) -> str:
    path = "/".join(request.path_params[name] for name in ("site", "area", "code"))
    if feed.knows(path) is False:
        raise HTTPException(404, _MISSING["line"])
    return path


def _day(request: Request) -> dt.date:
    text = request.path_params["day"]
    try:
        if len(text) == 10:
            return dt.date.fromisoformat(text)
    except ValueError:
        pass
    raise HTTPException(404, _MISSING["day"])


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
