"""The proof: two days of both lines through everything that runs, with all that can go wrong, and every view equals the events."""

from __future__ import annotations

import datetime as dt
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import psycopg
import pytest

from mes import contract
from mes.contract import CellEvent
from mes.seeds import load_plant
from mes.store.connection import connect
from mes.store.corrections import unscrap
from simulators.scenario import load, origin_of
from simulators.stream import Stream
from tests.faults import PATIENCE_S, Broker, Plant
from tests.pipeline import ROOT, Gateway, environment, rows, value
from tests.servers import wait_for
from tests.told import Poison, Told
from tests.truth import Truth
from tests.views import check

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
ODD = "asm/02"  # a machine of Nanjing that restarts, and of whose second boot not everything comes, or late
LATE, LOST = range(100, 181), {*range(250, 260), 300}
SEED = 7

Message = tuple[str, bytes]


def topic(line: str, machine: str) -> str:
    return f"umh/v1/cbak/{line}/{machine}/_cell_v1/completed"


def simulated(seeds: Path, line: str, start: dt.date) -> list[tuple[str, CellEvent]]:
    """The machines and events of two days of a line, as `linesim run` publishes them: same seed, same bytes."""
    scenario = load(seeds, line)
    stream = Stream(scenario, SEED, start, origin=origin_of(start))
    part = stream.advance(scenario.day_start(start + dt.timedelta(days=2)))
    told = [json.loads(text) for text in stream.lines(part).splitlines()]
    return [("/".join(one["topic"].split("/")[6:8]), msgspec.convert(one["event"], CellEvent)) for one in told]


def second_boot(first: list[tuple[str, CellEvent]]) -> list[CellEvent]:
    """What the odd machine reports after its restart: cells that are tried again, at once, hours later, by it and by others before it."""
    seen = [event for machine, event in first if machine.startswith("asm/")]
    begin = seen[0].timestamp_ms
    made = []
    for seq in range(1, 401):
        before = seen[seq * 37 % len(seen)]
        unit = before.unit if seq % 4 == 0 else f"X-{seq // 3}"
        result = ("pass", "rework", "pass", "scrap", "pass")[seq % 5]
        made.append(
            CellEvent(
                boot=2,
                seq=seq,
                timestamp_ms=begin + seq * 431_000 % (47 * 3_600_000),
                unit=unit,
                attempt=1 + seq % 3 % 2,
                result=result,
                cycle_s=90 + seq / 7,
                meas={"force": 9 + seq / 300} if seq % 11 else {},
                **({"defect": "asm1"} if result != "pass" else {}),
            )
        )
    return made


def poison() -> dict[Message, tuple[str | None, tuple[int, int] | None]]:
    """Messages that nobody understands, by what can be told of them: machine, identity."""
    lost = CellEvent(boot=2, seq=251, timestamp_ms=1_795_312_800_000, unit="P", attempt=1, result="scrap", cycle_s=1.0, defect="X99")
    return {
        (topic(NANJING, ODD), b"hello"): (ODD, None),
        (topic(NANJING, ODD), contract.encode(lost)): (ODD, (2, 251)),
        (topic(NANJING, "asm/77"), contract.encode(lost)): (None, None),
        (topic(DALIAN, "pck/04"), contract.encode(msgspec.structs.replace(lost, boot=5, seq=1))): ("pck/04", (5, 1)),
    }


def backlogs(line: str, events: list[tuple[str, CellEvent]], size: int) -> list[Message]:
    """The machines' events as arrays of so many."""
    by_machine: dict[str, list[CellEvent]] = {}
    for machine, event in events:
        by_machine.setdefault(machine, []).append(event)
    return [
        (topic(line, machine), contract.encode(mine[i : i + size]))
        for machine, mine in by_machine.items()
        for i in range(0, len(mine), size)
    ]


def simulate(line: str, start: dt.date, plant: Plant, seeds: Path) -> subprocess.Popen[bytes]:
    words = ["run", "--line", line, "--start", f"{start}", "--days", "2", "--speed", "max", "--seed", f"{SEED}", "--seeds", f"{seeds}"]
    words += ["--broker", plant.broker, "--progress", "none", "--state", f"{plant.folder / 'machines'}", "--window", "20"]
    with (plant.folder / f"linesim-{line.partition('/')[0]}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "simulators", *words], cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def stored(plant: Plant) -> int:
    return plant.ask("SELECT count(*) FROM mes.cell_event") or 0


def run_with_kills(plant: Plant, there: Broker, seeds: Path, start: dt.date, total: int) -> None:
    """Both lines through the pipeline; its parts die while most of the events are still to come, and come again."""
    simulators = [simulate(line, start, plant, seeds) for line in (NANJING, DALIAN)]
    try:
        wait_for(lambda: stored(plant) > 1000, PATIENCE_S, "the first events")
        plant.kill("ingest")
        at_the_kill = stored(plant)
        there.kill()
        plant.kill("rollup-1")
        assert at_the_kill < total, "all is stored already: nothing died in the middle"
        plant.start("rollup-1")
        there.start()
        plant.start("ingest")
        wait_for(lambda: stored(plant) > at_the_kill, PATIENCE_S, "ingest going on")
        plant.kill("rollup-2")
        plant.kill("ingest")
        plant.start("ingest", "rollup-2")
        for child in simulators:
            assert child.wait(PATIENCE_S) == 0
    finally:
        for child in simulators:
            child.kill()
            child.wait()


def summed(plant: Plant, events: int, duplicates: int) -> None:
    """Wait until so many events and so many of them again have come, and all of it is summed."""

    def there() -> tuple[int, int]:
        return stored(plant), plant.ask("SELECT sum(duplicates)::bigint FROM mes.machine_ledger")

    wait_for(lambda: there() == (events, duplicates), PATIENCE_S, f"{events} events, {duplicates} duplicates")
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.dirty_bucket") == 0, PATIENCE_S, "everything summed")


def tables(database: str) -> dict[str, list[str]]:
    """The schema kpi, row by row, as text."""
    names = [name for (name,) in rows(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'kpi'")]
    assert len(names) >= 7
    return {name: [text for (text,) in rows(database, f"SELECT t::text FROM kpi.{name} t ORDER BY 1")] for name in names}


def told(database: str, events: dict[str, list[tuple[str, CellEvent]]], taken_back: str) -> list[Told]:
    """The events with the instants at which they arrived; what is stored is what was sent, each once."""
    arrived = {
        (line, machine, boot, seq): at
        for line, machine, boot, seq, at in rows(
            database,
            "SELECT path, s.code || '/' || m.code, boot, e.seq, received_at FROM mes.cell_event e"
            " JOIN mes.line USING (line_id) JOIN mes.station s USING (station_id) JOIN mes.machine m USING (machine_id)",
        )
    }
    found = [Told(line, machine, e, arrived.pop((line, machine, e.boot, e.seq))) for line, mine in events.items() for machine, e in mine]
    assert not arrived, f"{len(arrived)} events are stored that nobody sent"
    return [replace(t, unscrapped=t.at) if t.event.unit == taken_back and t.event.result == "scrap" else t for t in found]


@pytest.fixture
def ground(make_plant: Callable[..., tuple[Plant, Broker]]) -> Iterator[tuple[Plant, Broker]]:
    plant, there = make_plant("embedded")
    plant.start("ingest", "rollup-1", "rollup-2")
    plant.sessions_held()
    yield plant, there


def test_every_view_of_two_days_with_faults_is_what_the_events_say(
    ground: tuple[Plant, Broker], databases: object, tell: Callable[[object], None]
) -> None:
    plant, there = ground
    seeds: Path = databases.seeds  # type: ignore[attr-defined]
    draw, whole = random.Random(SEED), load_plant(seeds)
    today = dt.datetime.now(dt.UTC).date()  # production days of both plants begin at midnight UTC
    start = today - dt.timedelta(days=1)
    events = {line: simulated(seeds, line, start) for line in (NANJING, DALIAN)}
    run_with_kills(plant, there, seeds, start, sum(map(len, events.values())))
    again = plant.ask("SELECT sum(duplicates)::bigint FROM mes.machine_ledger")
    first_repeats = rows(plant.database, "SELECT machine_id, bucket, n FROM mes.duplicate")
    assert sum(n for _, _, n in first_repeats) == again, "duplicates by time and by boot differ"

    odd = [e for e in second_boot(events[NANJING]) if e.seq not in LOST]
    resent = backlogs(NANJING, events[NANJING], 60)
    resent += draw.choices(resent, k=len(resent) // 5)
    in_time = [(topic(NANJING, ODD), contract.encode(e)) for e in odd if e.seq not in LATE]
    strange = poison()
    messages = [*resent, *in_time, *strange, *list(strange)[:1]]
    draw.shuffle(messages)
    with Gateway(plant.broker) as gateway:
        gateway.send(messages)
        wait_for(lambda: value(plant.database, "SELECT count(*) FROM mes.quarantine") == len(strange), PATIENCE_S, "quarantine")
        gateway.backlog(topic(NANJING, ODD), [e for e in odd if e.seq in LATE])
    repeated = [(NANJING, where, e) for where, payload in resent for e in msgspec.json.decode(payload, type=list[CellEvent])]
    events[NANJING] += [(ODD, e) for e in odd]
    total = sum(map(len, events.values()))
    summed(plant, total, again + len(repeated))

    scraps = [e.unit for _, e in events[DALIAN] if e.result == "scrap"]
    unit = next(u for u in scraps if scraps.count(u) == 1)
    with connect(plant.database) as connection:
        unscrap(connection, unit, None, "found beside the line")
    summed(plant, total, again + len(repeated))

    sent = told(plant.database, events, unit)
    kept = {
        (where, bytes(payload)): at
        for where, payload, at in rows(plant.database, "SELECT topic, payload, first_seen_at FROM mes.quarantine")
    }
    assert kept.keys() == strange.keys()
    truth = Truth(
        whole,
        sent,
        repeats=[Told(line, "/".join(where.split("/")[6:8]), e, sent[0].received_at) for line, where, e in repeated]
        + earlier(plant.database, first_repeats, sent),
        poison=[
            Poison("/".join(where.split("/")[3:6]), *strange[where, payload][:1], at, strange[where, payload][1])
            for (where, payload), at in kept.items()
        ],
    )
    lives = {t.event.unit for t in draw.sample(sent, 150)} | {unit} | {e.unit for e in odd if e.seq % 20 == 0}
    equal = check(plant.database, truth, lives)

    before = tables(plant.database)
    with psycopg.connect(plant.database, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join('kpi.' + name for name in before)}")
    subprocess.run(
        [sys.executable, "-m", "mes", "rollup", "--all"], env=environment(plant.database, plant.broker), check=True, timeout=PATIENCE_S
    )
    anew = tables(plant.database)
    assert [name for name in before if anew[name] != before[name]] == []

    everything = [m for line in events for m in backlogs(line, events[line], 200)]
    draw.shuffle(everything)
    with Gateway(plant.broker) as gateway:
        gateway.send(everything)
    summed(plant, total, again + len(repeated) + total)
    assert tables(plant.database) == before
    tell(f"{total:,} events, {again + len(repeated) + total:,} duplicates, {equal:,} values of {len(lives)} cells and all views equal")


def earlier(database: str, repeats: list[tuple[int, dt.datetime, int]], sent: list[Told]) -> list[Told]:
    """What came again because something was killed: known by machine and five minutes only."""
    machines = {
        number: (line, machine)
        for number, line, machine in rows(
            database,
            "SELECT machine_id, path, s.code || '/' || m.code FROM mes.machine m JOIN mes.station s USING (station_id)"
            " JOIN mes.line USING (line_id)",
        )
    }
    some = sent[0].event
    return [
        Told(*machines[number], msgspec.structs.replace(some, timestamp_ms=int(at.timestamp() * 1000)), at)
        for number, at, n in repeats
        for _ in range(n)
    ]
