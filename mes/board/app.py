"""The board's server, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator

import uvicorn

from mes.board import routes
from mes.board.details import Details
from mes.board.feed import Feed
from mes.board.reader import Reader
from mes.board.watch import Broker, watch
from mes.embedded import process
from mes.errors import ConfigError, Refused, Unavailable
from mes.tasks import stop_on_signals

log = logging.getLogger(__name__)


def serve(database: str, broker: str | None, host: str, port: int) -> None:
    """Serve the board until SIGTERM or SIGINT.

    database    URL; the program reads views of the schema `report` and writes nothing
    broker      URL; so that the board can say when nothing arrives any more. None: it does not look
    host, port  address to listen on; port 0 takes any free one

    Raises ConfigError if the address cannot be had, Refused if the database says no to the first reading. A database
    that does not answer, then or later, is waited for: pages say so.
    """
    with contextlib.closing(_listen(host, port)) as listening:
        asyncio.run(_serve(database, broker, listening))


async def _serve(database: str, broker: str | None, listening: socket.socket) -> None:
    stopping = stop_on_signals()
    refused: list[Refused | None] = []

    def ended(why: Refused | None) -> None:
        if not stopping.is_set():
            refused.append(why)
            stopping.set()

    static = routes.files()
    seen = Broker()
    feed = Feed(routes.version(static), seen)
    reader = Reader(database, feed, ended)
    details = Details(database)
    server = _Server(
        uvicorn.Config(
            routes.application(feed, details, static), http="h11", ws="none", lifespan="off", log_config=None, log_level="warning",
            access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    host, port = listening.getsockname()[:2]
    log.info("board: http://%s:%d", f"[{host}]" if ":" in host else host, port)
    reader.start()
    tasks = [asyncio.create_task(feed.beat(), name="beat")]
    if broker:
        tasks.append(asyncio.create_task(watch(broker, seen), name="watch"))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="serve")
    try:
        await stopping.wait()
    finally:
        reader.stop()
        details.close()
        for task in tasks:
            task.cancel()
        feed.close()  # else the server would wait for streams that never end
        server.should_exit = True
        await serving
    if refused:
        raise refused[0] or Unavailable("the board's reader ended by a fault: its trace is above")


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
