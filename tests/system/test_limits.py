"""What there is too much of, or too little: bytes that nobody can understand, room on disks, time, and a day twice."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from mes import contract
from tests import fleet, naive
from tests.faults import MEMORY_LIMIT, PATIENCE_S, Broker, Database, Databases, Plant, broker, through
from tests.pipeline import ROOT, Gateway, rows
from tests.proxy import Proxy
from tests.servers import wait_for

Make = Callable[..., tuple[Plant, Broker]]
Tell = Callable[[object], None]
Messages = list[tuple[str, bytes]]

INVALID = [path.read_bytes() for path in sorted((ROOT / "tests/golden/invalid").glob("*.*"))]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[str | None]:
    """A file system of its own with so much room; yields why there can be none, or None."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stderr.strip()
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left; the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    return filler


@pytest.mark.parametrize("what", ["tables", "log"])
def test_the_disk_under_the_database_is_full(tell: Tell, tmp_path: Path, what: str) -> None:
    """Where a table cannot grow a statement fails; where the log cannot, the server goes down and stays down until there is room."""
    home = tmp_path / "home"
    with small_disk(home / "postgres", 200) as why, contextlib.ExitStack() as stack:
        if why:
            tell(f"not run, this machine lets us mount nothing: {why}")
            return
        settings = {"min_wal_size": "32MB", "max_wal_size": "64MB", "wal_recycle": "off", "wal_init_zero": "on"}
        server = stack.enter_context(Database(home, settings=settings))
        databases = Databases(server, tmp_path)
        there = stack.enter_context(broker("mosquitto", tmp_path / "broker"))
        plant = stack.enter_context(Plant(tmp_path / "plant", databases.new(), there.url, databases.seeds))
        plant.start("ingest", "rollup")
        plant.sessions_held()
        machines = plant.run_machines(400, 1500)
        machines.has_sent(500)
        filler = fill(home / "postgres")
        if what == "log":
            with contextlib.suppress(psycopg.Error), psycopg.connect(plant.database, autocommit=True) as connection:
                connection.execute("SELECT pg_switch_wal()")
        wait_for(lambda: "No space left" in server.log.read_text(), PATIENCE_S, "a full disk")
        time.sleep(3)
        panicked = "PANIC" in server.log.read_text()
        assert panicked or what == "tables"
        was_alive = server.alive()
        filler.unlink()

        def answers() -> bool:  # it may go down only now, in the middle of its recovery
            if not server.alive():
                server.start()
            return plant.ask("SELECT 1") == 1

        wait_for(answers, PATIENCE_S, "the database")
        recovered = plant.recovers()
        how = "statements failed" if not panicked else "the server recovered" if was_alive else "the server went down"
        tell(f"{plant.settle()} ({how}; committing again {recovered:.1f} s after there was room)")


def test_the_disk_under_the_journals_is_full(make_plant: Make, tell: Tell, tmp_path: Path) -> None:
    """A machine that cannot write an event down does not publish it: it waits."""
    plant, _ = make_plant()
    with small_disk(tmp_path / "disk", 8) as why:
        if why:
            tell(f"not run, this machine lets us mount nothing: {why}")
            return
        plant.start("ingest", "rollup")
        plant.sessions_held()
        machines = plant.run_machines(400, 1500, disk=tmp_path / "disk")
        machines.has_sent(500)
        filler = fill(tmp_path / "disk")
        time.sleep(3)
        filler.unlink()
        found = plant.settle()
        assert machines.status["full"] > 0
        tell(f"{found} (a journal could not be written {machines.status['full']:,} times)")


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_database_that_stands_still_fills_the_broker_not_ingest(make_plant: Make, tell: Tell, kind: str) -> None:
    plant, there = make_plant(kind)
    lots = {f"material-{n}": f"lot-{n}-" + "x" * 50 for n in range(45)}
    total = 0
    with Proxy(there.port) as link:
        plant.start("rollup")
        plant.start("ingest", broker=through(there.url, link.port))
        plant.sessions_held()
        with psycopg.connect(plant.database) as other, Gateway(there.url) as gateway:
            other.execute("LOCK TABLE mes.cell_event IN EXCLUSIVE MODE")
            for first in range(1, 1801, 18):
                messages = []
                for topic in plant.topics:
                    events = [contract.CellEvent(**{**_fields(topic, seq), "lots": lots}) for seq in range(first, first + 18)]
                    plant.sent.setdefault((topic, 1), []).extend(events)
                    messages.append((topic, contract.encode(events)))
                total += sum(len(payload) for _, payload in messages)
                gateway.send(messages)
            time.sleep(5)
            taken, peak = link.passed["down"], plant.memory("ingest")
            assert taken < total / 2, f"of {total:,} bytes ingest has taken {taken:,}"
            assert peak < MEMORY_LIMIT, f"ingest has {peak >> 20} MiB"
            other.rollback()
        n = sum(map(len, plant.sent.values()))
        wait_for(lambda: plant.ask("SELECT count(*) FROM mes.cell_event") == n, PATIENCE_S, "everything stored")
        after = plant.memory("ingest")
        assert after < MEMORY_LIMIT, f"ingest has {after >> 20} MiB"
        sizes = f"{total >> 20} MiB published, {taken >> 20} MiB taken, ingest had {peak >> 20} MiB, afterwards {after >> 20} MiB"
        tell(f"{plant.settle(n)} ({sizes})")


def _fields(topic: str, seq: int) -> dict[str, object]:
    event = fleet.cell(topic, 1, seq)
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_machines_keep_what_a_database_that_stands_still_does_not_take(make_plant: Make, tell: Tell) -> None:
    """No machine is more than `ahead` events past its mark, so the broker's queue has an end too."""
    plant, _ = make_plant()
    plant.start("ingest", "rollup")
    plant.sessions_held()
    with psycopg.connect(plant.database) as other:
        other.execute("LOCK TABLE mes.cell_event IN EXCLUSIVE MODE")
        machines = plant.run_machines(300, 10_000, ahead=50)
        machines.has_sent(300 * len(plant.topics))
        time.sleep(1)
        acked = machines.status["acked"]
        assert acked <= 50 * len(plant.topics), "more than a machine may be ahead"
        other.rollback()
    tell(f"{plant.settle()} ({acked:,} acked while nothing was committed)")


def test_clocks_that_jump(make_plant: Make, tell: Tell) -> None:
    """Those of the machines by days, forth and back within a boot; those of the workers at every look. The database's does not."""
    plant, _ = make_plant()
    plant.start("ingest", "rollup", module="tests.jumpy")
    plant.sessions_held()
    plant.run_machines(200, 2000, jumps=True)
    tell(plant.settle())


def test_ten_thousand_poison_messages_among_good_ones(make_plant: Make, tell: Tell) -> None:
    plant, there = make_plant("embedded")
    victims = [topic for topic in plant.topics if "/04/" in topic]
    plant.topics = [topic for topic in plant.topics if "/04/" not in topic]
    plant.start("ingest", "rollup")
    plant.sessions_held()
    plant.run_machines(300, 1500)
    good = contract.encode(fleet.cell(plant.topics[0], 1, 1))
    strange = [f"{plant.topics[0].rsplit('/', 4)[0]}/zzz/01/_cell_v1/completed", plant.topics[0].replace("/01/", "/99/")]
    hopeless = [payload for payload in INVALID if all(event is None for _, event in naive.decode(payload, {"force"}, {"wnd1"}))]
    messages = [(victims[n % len(victims)], hopeless[n % len(hopeless)] + b" " * (n // len(hopeless))) for n in range(9_000)]
    messages += [(victims[n % len(victims)], b"\x00\xff" * n) for n in range(1, 501)]
    plant.poison = {(topic, part) for topic, payload in messages for part, _ in naive.decode(payload, {"force"}, {"wnd1"})}
    messages += (elsewhere := [(strange[n % 2], good[:-1] + b" " * n + b"}") for n in range(500)])
    plant.poison |= set(elsewhere)
    random.Random(1).shuffle(messages)
    assert len(messages) == 10_000
    with Gateway(there.url) as gateway:
        for n in range(0, len(messages), 500):
            gateway.send(messages[n : n + 500])
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.quarantine") >= len(plant.poison), PATIENCE_S, "quarantine")
    tell(f"{plant.settle()} (10,000 messages of poison)")


def test_a_day_twice_in_any_order_by_two_workers_is_a_day_once(make_plant: Make, tell: Tell) -> None:
    plant, there = make_plant("embedded")
    plant.start("ingest-1", "rollup")
    plant.sessions_held()
    plant.start("ingest-2")
    plant.sent = {(topic, 1): [fleet.cell(topic, 1, seq) for seq in range(1, 401)] for topic in plant.topics}
    n = sum(map(len, plant.sent.values()))

    def send(messages: Messages) -> None:
        with Gateway(there.url) as gateway:
            for at in range(0, len(messages), 200):
                gateway.send(messages[at : at + 200])

    send([(topic, contract.encode(events[i : i + 50])) for (topic, _), events in plant.sent.items() for i in range(0, 400, 50)])
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.cell_event") == n, PATIENCE_S, "the day")
    plant.settle(n)
    figures = {view: rows(plant.database, f"SELECT * FROM report.{view} ORDER BY 1, 2, 3") for view in VIEWS}

    again: list[Messages] = [[], [], []]
    draw = random.Random(7)
    for (topic, _), events in plant.sent.items():
        shuffled = draw.sample(events, len(events))
        while shuffled:
            size = draw.choice([1, 1, 7, 40])
            message = shuffled[:size]
            draw.choice(again).append((topic, contract.encode(message[0] if len(message) == 1 else message)))
            del shuffled[:size]
    senders = [threading.Thread(target=send, args=(draw.sample(messages, len(messages)),)) for messages in again]
    for sender in senders:
        sender.start()
    wait_for(lambda: plant.ask("SELECT sum(duplicates) FROM mes.machine_ledger") > 1000, PATIENCE_S, "duplicates")
    plant.kill("ingest-1")
    for sender in senders:
        sender.join(PATIENCE_S)
    wait_for(lambda: plant.ask("SELECT sum(duplicates) FROM mes.machine_ledger") >= n, PATIENCE_S, "every event a second time")
    del plant.workers["ingest-1"]
    found = plant.settle(2 * n)
    assert {view: rows(plant.database, f"SELECT * FROM report.{view} ORDER BY 1, 2, 3") for view in VIEWS} == figures
    tell(found)


VIEWS = ("daily_throughput", "daily_yield", "station_yield", "hourly_throughput")
