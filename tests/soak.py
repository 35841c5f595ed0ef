"""`./run soak --minutes N [--seed S]`: everything is broken at random under load; then it has to be well, and the account right.

It runs in chapters of a few minutes, with a database and a broker of their own, Mosquitto and the embedded one in turn.
Exit code 1 on any difference, and where a worker that was killed had no successor within ten seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.faults import Broker, Database, Databases, Plant, broker, port_of, through
from tests.proxy import BOTH, Proxy

CHAPTER_S = 300.0
RATE = 400.0
TAKEOVER_S = 10.0


class Chapter:
    """A plant, and what can be done to it. Each fault heals itself before it returns; only then is its recovery timed."""

    def __init__(self, plant: Plant, server: Database, there: Broker, links: dict[str, Proxy], draw: random.Random, longest: float) -> None:
        self.plant, self.server, self.broker, self.links, self.draw = plant, server, there, links, draw
        self.longest = longest
        self.faults: list[Callable[[], str]] = [self.kill_worker, self.kill, self.kill_two, self.stand_still, self.shut_down, self.bad_link]

    def kill_worker(self) -> str:
        """One of the two, and no other start: the other has to take over."""
        self.plant.kill(self.draw.choice(["ingest-1", "ingest-2"]))
        return "kill of a worker, taken over"

    def kill(self) -> str:
        part = self.draw.choice(["ingest-1", "ingest-2", "rollup", "database", "broker", "machines"])
        self._kill(part)()
        return f"kill of {part.partition('-')[0]}"

    def kill_two(self) -> str:
        parts = self.draw.sample(["ingest-1", "rollup", "database", "broker", "machines"], 2)
        again = [self._kill(part) for part in parts]
        time.sleep(self.draw.uniform(0, 1))
        for start in self.draw.sample(again, 2):
            start()
            time.sleep(self.draw.uniform(0, 1))
        return "kill of two parts"

    def stand_still(self) -> str:
        self.server.signal(signal.SIGSTOP)
        time.sleep(self.draw.uniform(1, self.longest))
        self.server.signal(signal.SIGCONT)
        return "database stands still"

    def shut_down(self) -> str:
        self.server.shut_down()
        time.sleep(self.draw.uniform(1, self.longest))
        self.server.start()
        return "database shut down"

    def bad_link(self) -> str:
        name, link = self.draw.choice(list(self.links.items()))
        link.delay_s = self.draw.choice([0.0, 0.2])
        link.slice_to = self.draw.choice([7, 1 << 16])
        link.silent = self.draw.choice([BOTH, frozenset({"up"}), frozenset({"down"}), frozenset()])
        time.sleep(self.draw.uniform(1, 20))
        link.heal()
        link.reset()
        return f"bad link {name}"

    def mend(self) -> None:
        """Start what a fault has left dead."""
        for name, worker in self.plant.workers.items():
            if worker.returncode == -signal.SIGKILL:
                start_worker(self.plant, name, self.links)

    def _kill(self, part: str) -> Callable[[], None]:
        if part in ("database", "broker"):
            server = self.server if part == "database" else self.broker
            server.kill()
            return server.start
        if part == "machines":
            fleet = self.plant.fleets[-1]
            fleet.kill()
            return fleet.start
        self.plant.kill(part)
        return lambda: start_worker(self.plant, part, self.links)


def start_worker(plant: Plant, name: str, links: dict[str, Proxy]) -> None:
    """The first worker has its database behind a bad link, the second its broker."""
    database = through(plant.database, links["ingest-database"].port) if name == "ingest-1" else None
    broker_url = through(plant.broker, links["ingest-broker"].port) if name == "ingest-2" else None
    plant.start(name, database=database, broker=broker_url)


def chapter(folder: Path, server: Database, databases: Databases, kind: str, seed: str, until: float, longest: float, seen: Seen) -> str:
    draw = random.Random(seed)
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(broker(kind, folder / "broker"))
        database = databases.new()
        ports = {"ingest-database": port_of(database), "ingest-broker": there.port, "machines-broker": there.port}
        links = {name: stack.enter_context(Proxy(port)) for name, port in ports.items()}
        plant = stack.enter_context(Plant(folder / "plant", database, there.url, databases.seeds))
        for name in ("ingest-1", "ingest-2", "rollup"):
            start_worker(plant, name, links)
        plant.sessions_held()
        now = Chapter(plant, server, there, links, draw, longest)
        while time.monotonic() < until:
            if not plant.fleets or plant.fleets[-1].process.poll() == 0:
                plant.run_machines(400, RATE, broker=through(there.url, links["machines-broker"].port)).has_sent(1)
            what = draw.choice(now.faults)()
            seconds = plant.recovers()
            seen[what].append(seconds)
            print(f"  {what}: committing again after {seconds:.1f} s", flush=True)
            now.mend()
            time.sleep(draw.uniform(0, 5))
        return str(plant.settle())


Seen = defaultdict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--longest", type=float, default=60.0, help="seconds that the database may be away (default: %(default)s)")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    end = time.monotonic() + 60 * given.minutes
    seen: Seen = defaultdict(list)
    failures = []
    with tempfile.TemporaryDirectory(prefix="mes-soak-") as place, Database(Path(place)) as server:
        databases = Databases(server, Path(place))
        number = 0
        while (left := end - time.monotonic()) > 0 and not failures:
            number += 1
            kind = ("embedded", "mosquitto")[number % 2]
            print(f"chapter {number}, {kind} broker", flush=True)
            folder = Path(place) / f"chapter-{number}"
            until = time.monotonic() + min(left, CHAPTER_S)
            try:
                print(f"  {chapter(folder, server, databases, kind, f'{given.seed} {number}', until, given.longest, seen)}", flush=True)
            except AssertionError as why:
                failures.append(f"chapter {number}: {why}")
    print(f"\n{'fault':<32} {'times':>6} {'worst recovery':>15}")
    for what, seconds in sorted(seen.items()):
        print(f"{what:<32} {len(seconds):>6} {max(seconds):>13.1f} s")
    late = [seconds for seconds in seen["kill of a worker, taken over"] if seconds > TAKEOVER_S]
    failures += [f"a worker had no successor for {seconds:.1f} s" for seconds in late]
    for failure in failures:
        print(f"FAILED with seed {given.seed}: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
