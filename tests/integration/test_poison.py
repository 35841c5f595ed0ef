"""Poison among good events, through brokers, ingest and databases: all of it is kept, and no good neighbour is lost."""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from mes.contract import encode
from mes.seeds import load_plant
from tests import naive, poison
from tests.conftest import SEEDS
from tests.pipeline import WND, Gateway, event, rows, service, sessions_held, value
from tests.servers import wait_for

Parts = tuple[str, str]
MEMORY_LIMIT = 300 << 20
WINDING = next(s for s in load_plant(SEEDS).line("nanjing/cells/32140-1").station if s.code == "wnd")


def parts_of(message: poison.Message) -> list[tuple[bytes, bool]]:
    """Bytes of each part of a message, and whether it is an event; by the slow and plain decoder of the tests."""
    topic, payload = message
    if topic != WND:
        return [(payload, False)]
    expected = naive.decode(payload, [c.name for c in WINDING.characteristic], [d.code for d in WINDING.defect])
    return [(part, found is not None) for part, found in expected]


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def stored(database: str, boot: int) -> list[int]:
    return [seq for (seq,) in rows(database, "SELECT seq FROM mes.cell_event WHERE boot = %s ORDER BY seq", boot)]


def test_every_poison_is_kept_and_every_good_neighbour_stored(parts: Parts) -> None:
    database, broker = parts
    messages = poison.by_hand() + poison.at_random(60)
    expected = [(message[0], *part) for message in messages for part in parts_of(message)]
    bad = Counter((topic, payload) for topic, payload, good in expected if not good)
    assert len(bad) >= 200
    good = len(messages)
    with service("ingest", database, broker) as ingest, Gateway(broker) as gateway:
        sessions_held(database)
        for n, message in enumerate(messages, 1):
            gateway.send([message, (WND, encode(event(n)))])
        wait_for(lambda: len(stored(database, 1)) == good, 60, "good neighbours")
        gateway.send([(WND, encode(event(good + 1)))])  # behind all of the poison, so that is in the database by then
        wait_for(lambda: len(stored(database, 1)) == good + 1, 30, "ingest alive")
        assert ingest.poll() is None
        assert peak_memory(ingest) < MEMORY_LIMIT
    kept = rows(database, "SELECT topic, payload, times, reason, detail FROM mes.quarantine")
    assert {(topic, payload): times for topic, payload, times, _, _ in kept} == bad
    assert all(reason and detail for _, _, _, reason, detail in kept)
    assert {reason for _, _, _, reason, _ in kept} == {
        "not_json", "invalid", "oversize", "duplicate_key", "nul", "unknown_defect", "unknown_characteristic", "unknown_machine", "topic",
    }  # fmt: skip
    events, duplicates = rows(database, "SELECT (SELECT count(*) FROM mes.cell_event), (SELECT sum(duplicates) FROM mes.machine_ledger)")[0]
    assert len(expected) + good + 1 == events + duplicates + bad.total()
    assert stored(database, 1) == list(range(1, good + 2))


def test_ten_thousand_poison_messages_among_good_ones(database: str, embedded_broker: str) -> None:
    with service("ingest", database, embedded_broker) as ingest, Gateway(embedded_broker) as gateway:
        sessions_held(database)
        gateway.send(
            message
            for n in range(1, 101)
            for message in (
                *((WND, b'{"boot":2,"seq":%d,"from":"%d"}' % (2 * k, n)) for k in range(100 * n, 100 * n + 100)),
                (WND, encode(event(n))),
            )
        )
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.quarantine") == 10_000, 120, "poison")
        wait_for(lambda: stored(database, 1) == list(range(1, 101)), 60, "good neighbours")
        assert ingest.poll() is None
        assert peak_memory(ingest) < MEMORY_LIMIT
    assert rows(database, "SELECT min(times), max(times), count(DISTINCT seq) FROM mes.quarantine") == [(1, 1, 10_000)]


@pytest.mark.parametrize("level", ["0 1", ">", "\x01", "\ufffe"])
def test_what_only_one_broker_lets_through(database: str, embedded_broker: str, mosquitto: str, level: str) -> None:
    topic = f"{poison.LINE}/wnd/{level}/_cell_v1/completed"
    broker = mosquitto if level in ("0 1", ">") else embedded_broker
    with service("ingest", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.send([(topic, poison.SOUND), (WND, encode(event(1)))])
        wait_for(lambda: stored(database, 1) == [1], 30, "good neighbour")
    assert rows(database, "SELECT topic, payload, reason FROM mes.quarantine") == [(topic, poison.SOUND, "topic")]
