"""Publish a file of events: in its order, at its pace or as fast as it goes, until the backend says that all of them are committed.

The file is the machines' journal. Each connection begins at its head and leaves out what is known to be committed, so that what a
broker has lost comes again; what comes twice, the backend counts once. A mark speaks for its own boot. That of a boot which was
followed by another is known only if it was heard, else from a pass through the whole file on one connection.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES, decode_committed
from mes.errors import ConfigError, Refused
from simulators.connection import BrokerUrl, Client, Connection
from simulators.gateway import NOT_TAKEN, PACKET_BYTES, mark_filters

_CHUNK: Final = 20_000  # lines that are looked at together: what one machine has in them goes out as arrays
_WINDOW_BYTES: Final = 2 << 20
_PACE_S: Final = 0.1
_STALL_S: Final = 20.0
_SETTLE_S: Final = 0.3


class _Line(msgspec.Struct):
    topic: str
    at_ms: int | None = None
    event: msgspec.Raw = msgspec.Raw()
    payload_base64: str | None = None


class _Identity(msgspec.Struct):
    boot: int
    seq: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Item:
    """A payload of the file; boot 0: it is no event."""

    topic: str
    at_ms: int
    payload: bytes
    boot: int = 0
    seq: int = 0


def items(file: Path) -> Iterator[Item]:
    """What a file of `linesim generate` holds, in its order; ConfigError names the line that cannot be read."""
    if file.suffix == ".parquet":
        yield from _rows(file)
        return
    if file.suffix != ".ndjson":
        raise ConfigError(f"--from {file}: the ending {file.suffix!r} is not known: use .ndjson or .parquet")
    line, identity = msgspec.json.Decoder(_Line), msgspec.json.Decoder(_Identity)
    try:
        with file.open("rb") as lines:
            for n, text in enumerate(lines, 1):
                try:
                    found = line.decode(text)
                    if len(memoryview(found.event)):
                        who = identity.decode(found.event)
                        at_ms = who.timestamp_ms if found.at_ms is None else found.at_ms
                        yield Item(found.topic, at_ms, bytes(found.event), who.boot, who.seq)
                    else:
                        yield Item(found.topic, found.at_ms or 0, b64decode(found.payload_base64 or "", validate=True))
                except (ValueError, msgspec.MsgspecError) as why:
                    raise ConfigError(f"--from {file}: line {n} is not one of linesim generate ({why}): generate the file anew") from why
    except OSError as why:
        raise ConfigError(f"--from {file}: cannot be read ({why.strerror}): name a file that linesim generate has written") from why


def _rows(file: Path) -> Iterator[Item]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as why:
        raise ConfigError(f"--from {file}: Parquet needs pyarrow: pip install 'mes[parquet]', or use .ndjson") from why
    optional = ("defect", "channel", "meas")
    names = ("boot", "seq", "timestamp_ms", "unit", "attempt", "result", "cycle_s", *optional)
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_CHUNK):
                for row in batch.to_pylist():
                    place = "/".join(row[key] for key in ("site", "area", "line", "station", "machine"))
                    topic = f"umh/v1/cbak/{place}/_cell_v1/completed"
                    if row["payload"] is not None:
                        yield Item(topic, row["at_ms"], row["payload"])
                        continue
                    event = {name: row[name] for name in names if name not in optional or row[name] or row[name] == 0}
                    if "meas" in event:
                        event["meas"] = dict(event["meas"])
                    yield Item(topic, row["at_ms"], msgspec.json.encode(event), row["boot"], row["seq"])
    except (OSError, pa.ArrowException, KeyError) as why:
        raise ConfigError(f"--from {file}: not a Parquet file of linesim generate ({why})") from why


@dataclass
class Figures:
    """Payloads so far: of the file, those sent (also again) and those that the broker has acknowledged; whether all is committed."""

    items: int = 0
    sent: int = 0
    acked: int = 0
    at_ms: int = 0
    committed: bool = False
    finished: bool = False


@dataclass
class Replay:
    """A file, a broker, and how fast. speed: simulated seconds a second, None for as fast as it goes."""

    file: Path
    url: BrokerUrl
    speed: float | None
    window: int
    marks: bool
    say: Callable[[str], None]
    figures: Figures = field(default_factory=Figures)

    def __post_init__(self) -> None:
        self._last: dict[str, dict[int, int]] = {}
        first: Item | None = None
        for item in items(self.file):
            first = first or item
            self.figures.items += 1
            if item.boot:
                boots = self._last.setdefault(item.topic, {})
                boots[item.boot] = max(boots.get(item.boot, 0), item.seq)
        if first is None:
            raise ConfigError(f"--from {self.file}: the file is empty: generate it anew")
        self._begin_ms = first.at_ms
        self._heard: dict[tuple[str, int], int] = {}
        self._moved = time.monotonic()
        self._began = 0.0
        self._on_their_way = self._bytes = self._refused = 0
        self._said: set[str] = set()
        self._news = asyncio.Event()

    async def run(self, show: Callable[[Figures], None]) -> bool:
        """Publish until all is committed (True) or a signal comes. Refused when the broker rejects the credentials."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        connection = Connection(self.url, f"linesim-replay-{time.time_ns()}", self.window, self.say)
        serve = asyncio.create_task(connection.serve(self._passes))
        stopped = asyncio.create_task(stop.wait())
        try:
            while not (serve.done() or stopped.done()):
                await asyncio.wait({serve, stopped}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                show(self.figures)
            if serve.done():
                serve.result()
            show(self.figures)
            return serve.done()
        finally:
            for task in (serve, stopped):
                task.cancel()
            await asyncio.wait({serve, stopped}, timeout=1.0)

    async def _passes(self, client: Client) -> bool:
        """One connection: through the file, and again, until all of it is committed."""
        self._on_their_way = self._bytes = 0
        listening, working = asyncio.create_task(self._listen(client)), asyncio.create_task(self._work(client))
        try:
            done, _ = await asyncio.wait({listening, working}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return working in done
        finally:
            for task in (listening, working):
                task.cancel()
            await asyncio.wait({listening, working})

    async def _work(self, client: Client) -> None:
        if self.marks:
            marks = {topic.replace("/_cell_v1/completed", "/_ledger_v1/committed") for topic in self._last}
            await client.subscribe([(pattern, 1) for pattern in mark_filters(marks)])
            await asyncio.sleep(_SETTLE_S)
        self._began = self._began or time.monotonic()
        while True:
            self._refused = 0
            await self._through(client)
            if await self._settled():
                self.figures.committed, self.figures.finished = self.marks, True
                return

    async def _settled(self) -> bool:
        """Whether all that was sent is committed; False when that has not moved for a while, or the broker refused some of it."""
        if self._refused:
            await asyncio.sleep(_STALL_S / 4)
            return False
        self._moved = time.monotonic()
        while self.marks and not all(self._heard.get((topic, max(boots)), 0) >= boots[max(boots)] for topic, boots in self._last.items()):
            if time.monotonic() - self._moved > _STALL_S:
                return False
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()
        return True

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            with suppress(msgspec.DecodeError):
                mark = decode_committed(bytes(message.payload))
                key = str(message.topic).replace("/_ledger_v1/committed", "/_cell_v1/completed"), mark.boot
                if mark.seq > self._heard.get(key, 0):
                    self._heard[key] = mark.seq
                    self._moved = time.monotonic()
                    self._news.set()

    async def _through(self, client: Client) -> None:
        """Publish what of the file is not known to be committed, and wait for the broker's acknowledgements."""
        chunk: list[Item] = []
        for item in items(self.file):
            if item.boot and item.seq <= self._heard.get((item.topic, item.boot), 0):
                continue
            if self.speed is not None and self._due(item) > time.monotonic():
                await self._publish(client, chunk)
                chunk = []
                await asyncio.sleep(max(_PACE_S, self._due(item) - time.monotonic()))
            chunk.append(item)
            if len(chunk) == _CHUNK:
                await self._publish(client, chunk)
                chunk = []
        await self._publish(client, chunk)
        while self._on_their_way:
            await self._wait()

    def _due(self, item: Item) -> float:
        return self._began + (item.at_ms - self._begin_ms) / 1000 / (self.speed or 1.0)

    async def _publish(self, client: Client, chunk: list[Item]) -> None:
        """Each machine's in its order; several at once as a backlog."""
        by_topic: dict[str, list[Item]] = {}
        for item in chunk:
            by_topic.setdefault(item.topic, []).append(item)
        for topic, mine in by_topic.items():
            room = MAX_MESSAGE_BYTES if client.longest is None else min(MAX_MESSAGE_BYTES, client.longest - len(topic) - PACKET_BYTES)
            for payload, n in _messages(mine, room):
                if len(payload) > room:
                    raise Refused(
                        f"broker {self.url} takes {room:,} bytes of {topic}, and {self.file} holds a message of {len(payload):,}:"
                        " raise its limit of the packet size"
                    )
                while self._on_their_way >= self.window or self._bytes > _WINDOW_BYTES:
                    await self._wait()
                self._on_their_way += 1
                self._bytes += len(payload)
                self.figures.sent += n
                client.send(topic, payload, partial(self._answered, topic, n, len(payload)))
        if chunk:
            self.figures.at_ms = chunk[-1].at_ms
        await asyncio.sleep(0)

    def _answered(self, topic: str, n: int, size: int, code: int) -> None:
        self._on_their_way -= 1
        self._bytes -= size
        if code == 16 or code >= 128:
            self._refused += n
            reason = NOT_TAKEN.get(code, f"reason code {code}")
            if reason not in self._said:
                self._said.add(reason)
                self.say(f"broker {self.url} does not take {topic} ({reason}): it is sent again until it does")
        else:
            self.figures.acked += n
        self._news.set()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()


def _messages(mine: list[Item], longest: int) -> Iterator[tuple[bytes, int]]:
    """Payloads with how many of the file are in each: events that follow one another as arrays, what is no event by itself."""
    lot: list[bytes] = []
    size = 2
    for item in mine:
        if not item.boot or len(lot) == MAX_BACKLOG or size + len(item.payload) + 1 > longest:
            yield from _lot(lot)
            lot, size = [], 2
        if item.boot:
            lot.append(item.payload)
            size += len(item.payload) + 1
        else:
            yield item.payload, 1
    yield from _lot(lot)


def _lot(lot: list[bytes]) -> Iterator[tuple[bytes, int]]:
    if len(lot) == 1:
        yield lot[0], 1
    elif lot:
        yield b"[" + b",".join(lot) + b"]", len(lot)


def iso(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
