"""Committed marks: each machine is told, retained, how far its events are committed, so that it can let go of them.

A mark is read from the committed ledger, on the connection that holds the line's lease. It is published when it has
moved, and also when the machine has sent something again: whoever sends again has not heard its mark.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Container, Iterable
from typing import Final

from mes import contract
from mes.batch import Batch
from mes.broker import Publisher, subscribed
from mes.equipment import Equipment, Line
from mes.errors import Refused

INTERVAL_S: Final = 1.0  # at most one mark a machine in this time
HOLDER_S: Final = 5.0  # how often the holder of a session says so
_RETAINED_S: Final = 0.5  # within which a broker delivers a retained value
WORKER: Final = f"{socket.gethostname()}-{os.getpid()}"


def mark_topic(topic: str) -> str:
    """Where a machine that reports on `topic` is told what is committed."""
    return topic.replace("/_cell_v1/completed", "/_ledger_v1/committed")


class Marks:
    """What the machines of a line have been told, and what they are to be told next."""

    def __init__(self, equipment: Equipment, publisher: Publisher) -> None:
        self._topics = {machine.machine_id: mark_topic(machine.topic) for machine in equipment.machines()}
        self._publisher = publisher
        self._told: dict[int, contract.Committed] = {}

    def sent(self, batch: Batch) -> None:
        """Take note of who has sent duplicates."""
        for machine_id, _ in batch.duplicates:
            self._told.pop(machine_id, None)

    def tell(self, marks: Iterable[tuple[int, int, int]], held: Container[int] = ()) -> None:
        """Publish (machine id, boot, seq) where it is news, but for machines that are `held`."""
        for machine_id, boot, seq in marks:
            mark = contract.Committed(boot, seq)
            topic = self._topics.get(machine_id)
            if topic is not None and machine_id not in held and self._told.get(machine_id) != mark:
                self._told[machine_id] = mark
                self._publisher.set(topic, contract.encode(mark))


class Holding:
    """Says, as long as it is renewed, that this backend holds the line's session."""

    def __init__(self, line: Line, database: str, publisher: Publisher) -> None:
        self._topic = contract.holder_topic(line.site, line.area, line.code)
        self._database = database
        self._publisher = publisher
        self._said = -HOLDER_S

    def renew(self) -> None:
        if time.monotonic() - self._said >= HOLDER_S:
            self._said = time.monotonic()
            self._say(WORKER)

    def end(self) -> None:
        """Nobody holds it now. Whose marks the machines have heard stays to be read."""
        self._say("")

    def _say(self, worker: str) -> None:
        self._publisher.set(self._topic, contract.encode(contract.Holder(self._database, worker, time.time_ns() // 1_000_000)))


async def refuse_second_backend(broker: str, line: Line, database: str) -> None:
    """Raise Refused when a backend with another database holds the line's session: taking it would take its messages.

    Workers with the same database never meet here, they take turns by the lease. A holder that has died is silent.
    """
    topic = contract.holder_topic(line.site, line.area, line.code)
    async with subscribed(broker, f"mes-look-{line.site}-{line.code}-{WORKER}", topic) as following:
        first = holder(await following(_RETAINED_S))
        if first is None or first.database == database or not first.worker:
            return
        again = holder(await following(3 * HOLDER_S))
        if again is not None and again.database != database and again.worker:
            raise Refused(
                f"line {line.path}: the backend {again.worker} with the database {again.database} takes its messages from this broker,"
                f" and this one commits to {database}: stop one of them, or give it a broker of its own"
            )


def holder(payload: bytes | None) -> contract.Holder | None:
    """What a line's holder topic says, if it can be read."""
    if not payload:
        return None
    try:
        return contract.decode_holder(payload)
    except ValueError:
        return None
