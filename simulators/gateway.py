"""The gateway of a line: one MQTT connection that speaks for all its machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiomqtt
import msgspec

from mes.contract import Committed, decode_committed
from mes.errors import ConfigError, Refused
from simulators.machine import Machine, Publication

WINDOW: Final = 200
# Backlogs are long messages: a few dozen on their way keep a broker busy, more only cost memory (and paho time, which
# walks through all of them at each acknowledgement).
_WINDOW_BYTES: Final = 2 << 20
_BACK_OFF_S: Final = (0.2, 5.0)
_KEEPALIVE_S: Final = 20
_TICK_S: Final = 0.5
_SETTLE_S: Final = 0.3  # within which a broker hands out the marks that it retains
_NOBODY_SUBSCRIBES: Final = 16
_NOT_TAKEN: Final = {_NOBODY_SUBSCRIBES: "nobody subscribes to it", 135: "not authorised", 144: "topic name invalid", 151: "quota exceeded"}


@dataclass(frozen=True)
class BrokerUrl:
    """mqtt://[user:password@]host[:port]; mqtts:// is TLS. `__str__` leaves the password out."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read a URL; ConfigError says what would be allowed."""
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            url, port = urlsplit(""), None
        if url.scheme not in ("mqtt", "mqtts") or not url.hostname or url.path.strip("/") or url.query:
            shown = text.rpartition("@")[2]
            form = "mqtt://[user:password@]host[:port], or mqtts:// for TLS"
            raise ConfigError(f"broker URL {shown!r} is not {form}: correct --broker or MES_BROKER_URL")
        tls = url.scheme == "mqtts"
        user = unquote(url.username) if url.username else None
        password = unquote(url.password) if url.password else None
        return cls(url.hostname, port or (8883 if tls else 1883), user, password, tls)

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


class Gateway:
    """Publishes what is in the machines' journals, hears their marks, sends again what stays unmarked. QoS 1.

    marks    whether "committed" is what the backend says on `_ledger_v1/committed`; else it is the broker's acknowledgement
    window   messages, at most, that the broker has not acknowledged

    published, acked, committed, sent_again, refused    events so far; the last two each time that it happens
    """

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        machines: Iterable[Machine],
        *,
        marks: bool = True,
        window: int = WINDOW,
        say: Callable[[str], None] = print,
    ) -> None:
        self.url = url
        self.client_id = client_id
        self.machines = list(machines)
        self.published = self.acked = self.committed = self.refused = 0
        self.uncommitted = sum(machine.uncommitted for machine in self.machines)
        """Events that are in a journal and not committed."""
        self._marks = marks
        self._window = window
        self._say = say
        self._said: set[str] = set()
        self._by_mark = {machine.topic.replace("/_cell_v1/completed", "/_ledger_v1/committed"): machine for machine in self.machines}
        self._waiting = deque(self.machines)  # machines that may have something to send, in turn
        self._queued = set(self.machines)
        self._on_their_way = self._bytes = 0
        self._unacked: dict[Machine, deque[list[int]]] = {}  # [boot, last seq, acknowledged], oldest first; without marks
        self._connection = 0
        self._version = 5
        self._news = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def sent_again(self) -> int:
        return sum(machine.sent_again for machine in self.machines)

    def append(self, machine: Machine, lines: bytes, first: int, n: int, backlog: bool = False) -> None:
        """Write down n events of a machine, to be published; see Machine.append, JournalFull included."""
        self.uncommitted += machine.append(lines, first, n, backlog)
        self._wake(machine)

    async def below(self, uncommitted: int) -> None:
        """Return when at most so many events are uncommitted."""
        while self.uncommitted > uncommitted:
            self._changed.clear()
            await self._changed.wait()

    async def serve(self) -> None:
        """Publish until cancelled. Refused when the broker rejects the credentials; otherwise it tries for ever."""
        delay, said = _BACK_OFF_S[0], ""
        while True:
            try:
                async with self._client() as client:
                    delay = _BACK_OFF_S[0]
                    if said:
                        self._say(f"broker {self.url} is there again")
                        said = ""
                    await self._run(client)
            except aiomqtt.MqttError as why:
                code = _code(why)
                if code in (1, 132) and self._version == 5:
                    self._version = 4
                    continue
                if code in (4, 5, 134, 135):  # bad user name or password, not authorised, as 3.1.1 and as 5 number them
                    who = f"user {self.url.user!r}" if self.url.user else "a client without user"
                    cure = "set user and password in MES_BROKER_URL (mqtt://user:password@host)"
                    raise Refused(f"broker {self.url} refuses {who}: {cure}") from why
                problem = f"broker {self.url} does not answer ({why}): trying again; is it running, and is MES_BROKER_URL right?"
                if problem != said:
                    self._say(problem)
                    said = problem
                await asyncio.sleep(delay)
                delay = min(delay * 2, _BACK_OFF_S[1])

    async def _run(self, client: _Client) -> None:
        """One connection: listen first, so that marks are known before anything is sent again."""
        self._connection += 1
        self._on_their_way = self._bytes = 0
        self._unacked.clear()
        listening = asyncio.create_task(self._listen(client))
        tasks = [listening]
        try:
            if self._marks:
                codes = await client.subscribe([(pattern, 1) for pattern in _filters(self._by_mark)])
                if any(getattr(code, "value", code) >= 128 for code in codes):
                    self._once(f"broker {self.url} does not let us read marks: grant it, or go without (--no-marks)")
                await asyncio.wait({listening}, timeout=_SETTLE_S)
            now = time.monotonic()
            for machine in self.machines:
                machine.connected(now)
                self._wake(machine)
            tasks.append(asyncio.create_task(self._send(client)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _listen(self, client: _Client) -> None:
        async for message in client.messages:
            machine = self._by_mark.get(str(message.topic))
            if machine is None or not message.payload:
                continue
            try:
                mark = decode_committed(bytes(message.payload))
            except msgspec.DecodeError:
                self._once(f"{message.topic}: not a mark: {bytes(message.payload)[:80]!r}")
                continue
            self._heard(machine, mark)

    def _heard(self, machine: Machine, mark: Committed) -> None:
        if machine.is_outrun_by(mark):
            self._once(
                f"the backend has events of boot {mark.boot} that these journals have never held (another run?): what repeats them is"
                f" a duplicate, even where it differs; for new events begin with --boot {mark.boot + 1}"
            )
        freed = machine.heard(mark, time.monotonic())
        if freed:
            self.committed += freed
            self.uncommitted -= freed
            self._changed.set()
        self._wake(machine)

    async def _send(self, client: _Client) -> None:
        """Machines take turns, a message each; all of them are looked at now and then, since some may have to send again."""
        looked = time.monotonic()
        while True:
            while self._waiting and self._on_their_way < self._window and self._bytes < _WINDOW_BYTES:
                machine = self._waiting.popleft()
                publication = machine.publication(time.monotonic())
                if publication is None:
                    self._queued.discard(machine)
                else:
                    self._waiting.append(machine)
                    self._publish(client, machine, publication)
            if time.monotonic() - looked >= _TICK_S:
                looked = time.monotonic()
                for machine in self.machines:
                    self._wake(machine)
                await asyncio.sleep(0)
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):  # wait_for of Python 3.11 forgets a cancellation that comes with the news
                    await self._news.wait()

    def _publish(self, client: _Client, machine: Machine, publication: Publication) -> None:
        connection, size = self._connection, len(publication.payload)
        last = publication.first + publication.n - 1
        entry = [publication.boot, last, 0]
        if not self._marks:
            self._unacked.setdefault(machine, deque()).append(entry)

        def answered(code: int) -> None:
            if connection != self._connection:
                return
            self._on_their_way -= 1
            self._bytes -= size
            self._news.set()
            if code == _NOBODY_SUBSCRIBES or code >= 128:
                self.refused += publication.n
                self._unacked.pop(machine, None)
                machine.refused(time.monotonic())
                reason = _NOT_TAKEN.get(code, f"reason code {code}")
                self._once(f"broker {self.url} does not take {publication.topic} ({reason}): kept in the journal, to be sent again")
                return
            self.acked += publication.n
            if not self._marks:
                entry[2] = 1
                self._acknowledged(machine)

        self._on_their_way += 1
        self._bytes += size
        self.published += publication.n
        client.send(publication.topic, publication.payload, answered)

    def _acknowledged(self, machine: Machine) -> None:
        """Without marks: what the broker has acknowledged, in order and with nothing before it open, counts as committed."""
        entries = self._unacked.get(machine)
        while entries and entries[0][2]:
            boot, last, _ = entries.popleft()
            self._heard(machine, Committed(boot, last))

    def _wake(self, machine: Machine) -> None:
        if machine not in self._queued:
            self._queued.add(machine)
            self._waiting.append(machine)
        self._news.set()

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _client(self) -> _Client:
        quiet = logging.getLogger("linesim.mqtt")
        quiet.setLevel(logging.CRITICAL)
        return _Client(
            self.url.host,
            self.url.port,
            username=self.url.user,
            password=self.url.password,
            identifier=self.client_id,
            # 5 says why a message is not taken; some brokers speak 3.1.1 only
            protocol=aiomqtt.ProtocolVersion.V5 if self._version == 5 else aiomqtt.ProtocolVersion.V311,
            keepalive=_KEEPALIVE_S,
            max_inflight_messages=self._window,
            tls_context=ssl.create_default_context() if self.url.tls else None,
            logger=quiet,
        )


class _Client(aiomqtt.Client):
    """aiomqtt's, with a publish that waits for nothing and hands on the broker's reason code, which aiomqtt does not look at."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answers: dict[int, Callable[[int], None]] = {}

    def send(self, topic: str, payload: bytes, answered: Callable[[int], None]) -> None:
        """Publish with QoS 1; `answered` is called with the reason code (0: taken) unless the connection ends before."""
        self._answers[self._client.publish(topic, payload, 1).mid] = answered

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        answered = self._answers.pop(mid, None)
        if answered is None:
            super()._on_publish(client, userdata, mid, reason_code, properties)
        else:
            answered(getattr(reason_code, "value", reason_code))


def _filters(topics: Iterable[str]) -> list[str]:
    """A filter for each line that these topics of machines belong to."""
    return sorted({"/".join([*topic.split("/")[:6], "+", "+", *topic.split("/")[8:]]) for topic in topics})


def _code(why: aiomqtt.MqttError) -> int:
    if not isinstance(why, aiomqtt.MqttCodeError) or why.rc is None:
        return 0
    return int(why.rc if isinstance(why.rc, int) else why.rc.value)
