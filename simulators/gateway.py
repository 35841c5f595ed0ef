"""The gateway of a line: one MQTT connection that speaks for all its machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from mes.client import TOO_LARGE
from mes.contract import MAX_EVENT_BYTES, MAX_MESSAGE_BYTES, Committed, decode_committed
from simulators.connection import BrokerUrl, Client, Connection
from simulators.machine import Machine, Publication

WINDOW: Final = 200
# Backlogs are long messages: a few dozen on their way keep a broker busy, more only cost memory (and paho time, which
# walks through all of them at each acknowledgement).
_WINDOW_BYTES: Final = 2 << 20
_TICK_S: Final = 0.5
_SETTLE_S: Final = 0.3  # within which a broker hands out the marks that it retains
_NOBODY_SUBSCRIBES: Final = 16
NOT_TAKEN: Final = {
    _NOBODY_SUBSCRIBES: "nobody subscribes to it",
    135: "not authorised",
    144: "topic name invalid",
    TOO_LARGE: "too long",
    151: "quota exceeded",
}
PACKET_BYTES: Final = 10  # of a PUBLISH beside topic and payload: first byte, length, topic's length, packet id, no properties
_HANGS_UP: Final = 2  # so often in a row a broker without a word (MQTT 3.1.1) makes us try shorter messages


class Gateway:
    """Publishes what is in the machines' journals, hears their marks, sends again what stays unmarked. QoS 1.

    marks    whether "committed" is what the backend says on `_ledger_v1/committed`; else it is the broker's acknowledgement
    window   messages, at most, that the broker has not acknowledged

    unmarked_s   seconds without progress of a machine's mark after which we say so: the broker may drop what it acknowledges

    published, acked, committed, sent_again, refused    events so far; the last two each time that it happens
    unmarked                                            machines whose marks stand still, though the broker takes their messages
    """

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        machines: Iterable[Machine],
        *,
        marks: bool = True,
        window: int = WINDOW,
        unmarked_s: float = 30.0,
        say: Callable[[str], None] = print,
        changed: asyncio.Event | None = None,
    ) -> None:
        self.url = url
        self.client_id = client_id
        self.machines = list(machines)
        self.published = self.acked = self.committed = self.refused = self.unmarked = 0
        self.uncommitted = sum(machine.uncommitted for machine in self.machines)
        """Events that are in a journal and not committed."""
        self._marks = marks
        self._window = window
        self._unmarked_s = unmarked_s
        self._say = say
        self._said: set[str] = set()
        self._by_mark = {machine.topic.replace("/_cell_v1/completed", "/_ledger_v1/committed"): machine for machine in self.machines}
        self._waiting = deque(self.machines)  # machines that may have something to send, in turn
        self._queued = set(self.machines)
        self._open: dict[int, tuple[Machine, Publication]] = {}  # on their way to the broker, on this connection
        self._bytes = 0
        self._unacked: dict[Machine, deque[list[int]]] = {}  # [boot, last seq, acknowledged], oldest first; without marks
        self._sent = 0
        self._answered = False  # on this connection
        self._longest = MAX_MESSAGE_BYTES  # as far as a broker that does not say it has let us know
        self._hung_up = 0
        self._news = asyncio.Event()
        self._changed = changed or asyncio.Event()

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
        await Connection(self.url, self.client_id, self._window, self._say).serve(self._run)

    async def _run(self, client: Client) -> bool:
        """One connection: listen first, so that marks are known before anything is sent again."""
        self._open = {}
        self._bytes = 0
        self._answered = False
        self._unacked.clear()
        self._fit(client)
        listening = asyncio.create_task(self._listen(client))
        tasks = [listening]
        try:
            if self._marks:
                codes = await client.subscribe([(pattern, 1) for pattern in mark_filters(self._by_mark)])
                if any(getattr(code, "value", code) >= 128 for code in codes):
                    self._once(f"broker {self.url} does not let us read marks: grant it, or go without (--no-marks)")
                await asyncio.wait({listening}, timeout=_SETTLE_S)
            now = time.monotonic()
            self._look(now)
            for machine in self.machines:
                machine.connected(now)
            tasks.append(asyncio.create_task(self._send(client)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._learn(client)

    def _fit(self, client: Client) -> None:
        """Messages as long as the broker takes."""
        if client.longest is not None and client.longest < MAX_MESSAGE_BYTES:
            self._once(f"broker {self.url} takes packets of at most {client.longest:,} bytes: backlogs go in arrays that fit")
        for machine in self.machines:
            room = MAX_MESSAGE_BYTES if client.longest is None else client.longest - len(machine.topic) - PACKET_BYTES
            machine.most_bytes = max(1, min(room, self._longest))

    def _learn(self, client: Client) -> None:
        """At the end of a connection: whether a message was too long for the broker."""
        machine, longest = max(self._open.values(), key=lambda each: len(each[1].payload), default=(None, None))
        size = len(longest.payload) if longest else 0
        self._hung_up = self._hung_up + 1 if size > MAX_EVENT_BYTES and not self._answered else 0
        if size > MAX_EVENT_BYTES and (client.ended == TOO_LARGE or self._hung_up >= _HANGS_UP):
            self._shorten(size)
        elif machine is not None and client.ended == TOO_LARGE:
            self._does_not_fit(machine, size)
            machine.refused(time.monotonic())

    def _shorten(self, size: int) -> None:
        if self._longest > MAX_EVENT_BYTES:
            self._longest = MAX_EVENT_BYTES
            self._once(f"broker {self.url} does not take {size:,} bytes: from now on messages have at most {MAX_EVENT_BYTES:,}")

    def _does_not_fit(self, machine: Machine, size: int) -> None:
        self._once(
            f"broker {self.url} does not take an event of {size:,} bytes from {machine.topic}: raise its limit of the packet size;"
            " it is kept in the journal, and so is what follows it"
        )

    async def _listen(self, client: Client) -> None:
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

    async def _send(self, client: Client) -> None:
        """Machines take turns, a message each; all of them are looked at now and then, since some may have to send again."""
        looked = time.monotonic()
        while True:
            while self._waiting and len(self._open) < self._window and self._bytes < _WINDOW_BYTES:
                machine = self._waiting.popleft()
                publication = machine.publication(time.monotonic())
                if publication is None:
                    self._queued.discard(machine)
                    if machine.too_long:
                        self._does_not_fit(machine, len(machine.too_long.payload))
                else:
                    self._waiting.append(machine)
                    self._publish(client, machine, publication)
            if time.monotonic() - looked >= _TICK_S:
                looked = time.monotonic()
                self._look(looked)
                await asyncio.sleep(0)
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):  # wait_for of Python 3.11 forgets a cancellation that comes with the news
                    await self._news.wait()

    def _look(self, now: float) -> None:
        """Have all machines looked at, and see whose marks stand still."""
        for machine in self.machines:
            self._wake(machine)
        still = [m for m in self.machines if m.waits_since is not None and now - m.waits_since > self._unmarked_s] if self._marks else []
        if still and not self.unmarked:
            self._say(
                f"nothing that broker {self.url} has taken from {still[0].topic}{f' and {len(still) - 1} others' if still[1:] else ''} was"
                f" committed for {self._unmarked_s:.0f} s: is ingest running, and may this client publish there and read its marks?"
                " It is kept in the journal, and sent again"
            )
        self.unmarked = len(still)

    def _publish(self, client: Client, machine: Machine, publication: Publication) -> None:
        self._sent += 1
        number, on_this_connection, size = self._sent, self._open, len(publication.payload)
        entry = [publication.boot, publication.first + publication.n - 1, 0]
        if not self._marks:
            self._unacked.setdefault(machine, deque()).append(entry)

        def answered(code: int) -> None:
            if on_this_connection is not self._open:
                return
            del self._open[number]
            self._answered = True
            self._bytes -= size
            self._news.set()
            if code == _NOBODY_SUBSCRIBES or code >= 128:
                self._refused(machine, publication, code)
                return
            self.acked += publication.n
            if not self._marks:
                entry[2] = 1
                self._acknowledged(machine)

        self._open[number] = machine, publication
        self._bytes += size
        self.published += publication.n
        client.send(publication.topic, publication.payload, answered)

    def _refused(self, machine: Machine, publication: Publication, code: int) -> None:
        self.refused += publication.n
        self._unacked.pop(machine, None)
        machine.refused(time.monotonic())
        reason = NOT_TAKEN.get(code, f"reason code {code}")
        self._once(f"broker {self.url} does not take {publication.topic} ({reason}): kept in the journal, to be sent again")
        if code == TOO_LARGE and len(publication.payload) > MAX_EVENT_BYTES:
            self._shorten(len(publication.payload))
            machine.most_bytes = min(machine.most_bytes, self._longest)

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


def mark_filters(topics: Collection[str]) -> list[str]:
    """What to subscribe to for these marks: the topic of one machine, or a filter for each line that they belong to."""
    if len(topics) == 1:
        return list(topics)
    return sorted({"/".join([*topic.split("/")[:6], "+", "+", *topic.split("/")[8:]]) for topic in topics})
