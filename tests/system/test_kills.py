"""kill -9 of every part, alone and in pairs, while machines send: each event is stored once, and every figure is that of the events.

Each test is a boot of all machines; tests share a plant until one of them fails, so what a test leaves behind counts too.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults import Broker, Database, Databases, Plant, broker


class Ground:
    """A plant with the servers below it."""

    def __init__(self, plant: Plant, server: Database, broker: Broker) -> None:
        self.plant, self.server, self.broker = plant, server, broker

    def kill(self, part: str) -> Callable[[], None]:
        """kill -9; returns what starts the part again."""
        if part in ("database", "broker"):
            server = self.server if part == "database" else self.broker
            server.kill()
            return server.start
        if part == "machines":
            self.plant.fleets[-1].kill()
            return self.plant.fleets[-1].start
        self.plant.kill(part)
        return lambda: self.plant.start(part)


@pytest.fixture(scope="module")
def grounds(server: Database, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Ground]]:
    """A plant by the kind of its broker, made anew after a failure."""
    standing: dict[str, Ground] = {}
    stacks: dict[str, contextlib.ExitStack] = {}

    def get(kind: str) -> Ground:
        if kind in standing and not standing[kind].plant.sound:
            stacks.pop(kind).close()
            del standing[kind]
        if kind not in standing:
            folder = tmp_path_factory.mktemp(kind)
            stack = stacks[kind] = contextlib.ExitStack()
            there = stack.enter_context(broker(kind, folder / "broker"))
            plant = stack.enter_context(Plant(folder / "plant", databases.new(), there.url, databases.seeds))
            plant.start("ingest", "rollup")
            plant.sessions_held()
            standing[kind] = Ground(plant, server, there)
        return standing[kind]

    yield get
    for stack in stacks.values():
        stack.close()


Grounds = Callable[[str], Ground]
Tell = Callable[[object], None]


@pytest.mark.parametrize("seed", range(1, 21))
def test_kill_of_ingest(grounds: Grounds, tell: Tell, seed: int) -> None:
    ground, draw = grounds("mosquitto" if seed % 5 else "embedded"), random.Random(seed)
    events, rate = draw.choice([(50, 800), (150, 2500), (400, 8000)])  # a second and a half of load
    fleet = ground.plant.run_machines(events, rate)
    fleet.has_sent(1)
    time.sleep(draw.uniform(0, 1))
    ground.kill("ingest")()
    recovered = ground.plant.recovers()
    tell(f"{ground.plant.settle()} (committing again after {recovered:.1f} s)")


ONE = [("mosquitto", "database"), ("mosquitto", "broker"), ("mosquitto", "rollup"), ("embedded", "broker")]
TWO = [
    (kind, *pair) for kind in ("mosquitto", "embedded") for pair in itertools.combinations(("ingest", "rollup", "database", "broker"), 2)
]
MACHINES = [("mosquitto", "machines"), ("mosquitto", "machines", "broker"), ("embedded", "machines", "ingest")]


@pytest.mark.parametrize("parts", ONE + MACHINES + TWO, ids="-".join)
def test_kill_of(grounds: Grounds, tell: Tell, parts: tuple[str, ...], fault_seed: int) -> None:
    ground, draw = grounds(parts[0]), random.Random(f"{fault_seed} {parts}")
    fleet = ground.plant.run_machines(100, 1200)
    fleet.has_sent(draw.randint(1, 1600))
    dying = draw.sample(parts[1:], len(parts) - 1)
    again = []
    for part in dying:
        again.append(ground.kill(part))
        time.sleep(draw.uniform(0, 0.5))
    for start in draw.sample(again, len(again)):
        start()
        time.sleep(draw.uniform(0, 0.5))
    recovered = ground.plant.recovers()
    tell(f"{ground.plant.settle()} ({' then '.join(dying)}; committing again after {recovered:.1f} s)")
