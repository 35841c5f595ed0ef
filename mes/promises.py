"""What machines have been told is committed, against what the database holds.

A mark is a promise: its machine has let go of everything below it. A database that was set back to an older point (a
restore, a standby that was behind) holds less than was promised with it. The marks of those machines then stand still,
as they never go backwards, until what is missing has been put back, or given up by hand (`mes ledger lost`). Machines
go on meanwhile: what they send is stored, and they keep it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from mes import contract
from mes.broker import Publisher, retained
from mes.equipment import Equipment, Line
from mes.ledger import Promise, Unkept
from mes.marks import WORKER, holder, mark_topic

_SOME: Final = 3  # machines that are named in a warning

log = logging.getLogger(__name__)


class Promises:
    """The promises that a line's machines have had from this database, and those of them that it does not keep.

    names    machines by their id
    foreign  topics of marks that another database has left behind: about what is in this one they say nothing
    """

    def __init__(self, line: Line, names: dict[int, str], made: Sequence[Promise], foreign: Sequence[str]) -> None:
        self._line = line
        self.names = names
        self.made = made
        self.foreign = foreign
        self.unkept: dict[int, Unkept] = {}

    def found(self, unkept: Sequence[Unkept]) -> None:
        """Take note of those that are not kept now; what this changes is said."""
        before, self.unkept = self.unkept, {one.machine_id: one for one in unkept}
        self.made = [promise for promise in self.made if promise.machine_id in self.unkept]
        if self.unkept and not before:
            named = [
                f"{self.names[one.machine_id]} boot {one.boot}: told {one.seq}, holds {one.holds}"
                for one in list(self.unkept.values())[:_SOME]
            ]
            more = ", ..." if len(self.unkept) > _SOME else ""
            log.error(
                "line %s: the database holds less than %d machines were told is committed (%s%s): it was set back to an older point. Their"
                " marks stand still: put back what is missing, or give it up with `mes ledger lost` (deploy/backup/README.md)",
                self._line.path, len(self.unkept), "; ".join(named), more,
            )  # fmt: skip
        elif before and not self.unkept:
            log.info(
                "line %s: what machines were told is committed is in the database again, or given up: their marks go on", self._line.path
            )

    def take_back_foreign(self, publisher: Publisher) -> None:
        """Take the marks of another database away, before a machine believes them."""
        for topic in self.foreign:
            publisher.set(topic, b"")
        if self.foreign:
            log.info("line %s: %d marks of another database are taken back", self._line.path, len(self.foreign))


async def promises(broker: str, line: Line, equipment: Equipment, database: str) -> Promises:
    """What the broker retains of the line: its marks, and whose they are.

    database  the name of this one; of two with the same installation one is a copy of the other, and its promises bind both
    """
    where = line.site, line.area, line.code
    found = await retained(
        broker, f"mes-heard-{line.site}-{line.code}-{WORKER}", (contract.holder_topic(*where), contract.committed_filter(*where))
    )
    by = holder(found.pop(contract.holder_topic(*where), None))
    machines = {mark_topic(machine.topic): machine for machine in equipment.machines()}
    marks = {topic: payload for topic, payload in found.items() if topic in machines and payload}
    names = {machine.machine_id: "/".join(topic.split("/")[6:8]) for topic, machine in machines.items()}
    if by is None or _installation(by.database) != _installation(database):
        return Promises(line, names, [], sorted(marks))
    made = []
    for topic, payload in marks.items():
        try:
            mark = contract.decode_committed(payload)
        except ValueError:
            continue
        made.append(Promise(machines[topic].machine_id, mark.boot, mark.seq))
    return Promises(line, names, made, [])


def _installation(database: str) -> str:
    """What stays the same when a database is restored elsewhere (the query `database` puts it last)."""
    return database.rpartition(", ")[2]
