"""A TCP link that misbehaves when told to: it delays, slices, goes silent in one or both directions, and resets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]
BOTH: frozenset[Direction] = frozenset({"up", "down"})


class Proxy:
    """Forwards 127.0.0.1:`port` to a server on 127.0.0.1, from a thread of its own. "up" is towards the server.

    delay_s   each piece waits so long, and up to as long again
    slice_to  no piece is longer than so many bytes
    silent    directions in which nothing passes although the link stands: half open, as after a cut without a word
    refusing  whether new connections are reset at once
    """

    def __init__(self, server: int, seed: int = 1) -> None:
        self.server = server
        self.port = 0
        self.delay_s = 0.0
        self.slice_to = 1 << 16
        self.silent: frozenset[Direction] = frozenset()
        self.refusing = False
        self.connections = 0
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}  # bytes
        self._random = random.Random(seed)
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop).result(10)
        self.port = listening.sockets[0].getsockname()[1]
        self._listening = listening
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reset(self) -> None:
        """Every connection that stands ends with RST on both sides."""
        self._loop.call_soon_threadsafe(self._reset)

    def heal(self) -> None:
        """New connections pass undisturbed; those that went silent are reset, since what they held is out of date."""
        was_silent, self.silent = self.silent, frozenset()
        self.refusing, self.delay_s, self.slice_to = False, 0.0, 1 << 16
        if was_silent:
            self.reset()

    async def _close(self) -> None:
        self._listening.close()
        self._reset()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _reset(self) -> None:
        for writer in list(self._links):
            _abort(writer)
        self._links.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            return _abort(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.server)
        except OSError:
            return _abort(writer)
        self._links |= {writer, there_writer}
        pumps = [
            asyncio.ensure_future(self._pump(reader, there_writer, "up")),
            asyncio.ensure_future(self._pump(there_reader, writer, "down")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for side in (writer, there_writer):
                self._links.discard(side)
                side.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.slice_to):
                while direction in self.silent:  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.02)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s * (1 + self._random.random()))
                writer.write(data)
                self.passed[direction] += len(data)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST: nothing that waits is sent any more."""
    with contextlib.suppress(OSError):
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
