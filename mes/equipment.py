"""A line's equipment as the database knows it: what a topic stands for, by id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mes import contract
from mes.errors import Rejected


@dataclass(frozen=True, slots=True, eq=False)
class Station:
    """A station: its id, what its events may hold, where readings stand in a row, and the ids of its defects."""

    station_id: int
    rules: contract.Station
    slots: tuple[str, ...]
    defect_ids: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A machine: its id, and the topic of its cells."""

    machine_id: int
    topic: str
    station: Station


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line with all machines that may report on it."""

    line_id: int
    site: str
    area: str
    code: str

    @property
    def path(self) -> str:
        return f"{self.site}/{self.area}/{self.code}"


class Equipment:
    """Finds the machine that a topic belongs to."""

    def __init__(self, line: Line, machines: Iterable[Machine]) -> None:
        self.line = line
        self._by_topic = {machine.topic: machine for machine in machines}
        self._by_state_topic = {topic.replace("/_cell_v1/completed", "/_state_v1/changed"): m for topic, m in self._by_topic.items()}

    def machines(self) -> Iterable[Machine]:
        """All machines of the line."""
        return self._by_topic.values()

    def machine(self, topic: str) -> Machine:
        """The machine whose cells (then `topic` is its `topic`) or states are reported on `topic`; Rejected says why there is none."""
        machine = self._by_topic.get(topic) or self._by_state_topic.get(topic)
        if machine is None:
            parsed = contract.Topic.parse(topic)
            raise Rejected(
                "unknown_machine",
                f"no machine {parsed.station}/{parsed.machine} with {parsed.schema}/{parsed.name} on line {self.line.path}",
            )
        return machine
