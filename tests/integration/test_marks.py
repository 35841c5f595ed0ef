"""Committed marks, against both brokers and databases: what a machine is told is in the database, and it is told all of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import paho.mqtt.client as paho
import psycopg
import pytest

from mes import contract
from mes.broker import Publisher
from tests.pipeline import GRD, WND, Gateway, environment, event, rows, service, sessions_held, subscriber, value
from tests.servers import Mosquitto, stopped_at_the_end, wait_for

Parts = tuple[str, str]
MARK = WND.replace("_cell_v1/completed", "_ledger_v1/committed")
MARKS = "umh/v1/cbak/nanjing/cells/32140-1/+/+/_ledger_v1/committed"
MACHINE = "nanjing/cells/32140-1/wnd/01"


def mes(parts: Parts, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mes", *words]
    return subprocess.run(command, env=environment(*parts), capture_output=True, text=True, timeout=60, check=False)


def marked(marks: dict[str, Any], boot: int, seq: int, topic: str = MARK) -> None:
    wait_for(lambda: marks.get(topic) == {"boot": boot, "seq": seq}, 30, f"mark {boot}/{seq}")


@contextlib.contextmanager
def heard(broker: str, pattern: str) -> Iterator[list[tuple[str, Any]]]:
    """Every message, in order."""
    parts = urlsplit(broker)
    seen: list[tuple[str, Any]] = []
    ready = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _u, m: seen.append((m.topic, msgspec.json.decode(m.payload) if m.payload else None))
    client.on_subscribe = lambda *_: ready.set()
    client.connect(parts.hostname or "127.0.0.1", parts.port or 1883)
    client.subscribe(pattern, 1)
    client.loop_start()
    assert ready.wait(10)
    try:
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()


def test_the_mark_follows_what_is_committed_without_a_gap(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker), Gateway(broker) as gateway, subscriber(broker, MARKS) as marks:
        sessions_held(database)
        gateway.backlog(WND, [event(i) for i in range(1, 301)])
        marked(marks, 1, 300)
        gateway.cells(WND, [event(i) for i in (302, 303, 305)])  # 301 and 304 are missing
        gateway.cells(GRD, [event(i) for i in (2, 3)])  # and so is the first of all
        marked(marks, 1, 0, GRD.replace("_cell_v1/completed", "_ledger_v1/committed"))
        assert marks[MARK] == {"boot": 1, "seq": 300}
        gateway.cells(WND, [event(301)])
        marked(marks, 1, 303)
        gateway.send([(WND, contract.encode(event(304)).replace(b'"pass"', b'"good"'))])  # quarantined, but it can be told which one it is
        marked(marks, 1, 305)
        gateway.cells(WND, [event(i, boot=2) for i in (1, 2)])
        marked(marks, 2, 2)
        gateway.cells(WND, [event(306)])  # a boot that is over
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event WHERE seq = 306") == 1, what="stored")
        gateway.cells(WND, [event(3, boot=2)])
        marked(marks, 2, 3)
    with subscriber(broker, MARKS) as retained:
        marked(retained, 2, 3)


def test_nothing_is_marked_before_it_is_committed(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker), Gateway(broker) as gateway, heard(broker, MARKS) as marks:
        sessions_held(database)
        gateway.cells(WND, [event(1)])
        wait_for(lambda: marks[-1:] == [(MARK, {"boot": 1, "seq": 1})], what="first mark")
        with psycopg.connect(database) as other:
            other.execute("LOCK TABLE mes.cell_event IN EXCLUSIVE MODE")
            gateway.cells(WND, [event(i) for i in range(2, 101)])
            wait_for(lambda: value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") > 0, what="ingest waits for the lock")
            threading.Event().wait(2.5)  # time enough for two marks, were they taken from what has arrived
            assert marks[-1][1] == {"boot": 1, "seq": 1}
            other.rollback()
        wait_for(lambda: marks[-1][1] == {"boot": 1, "seq": 100}, what="mark after the commit")


def test_who_sends_again_is_told_again(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker), Gateway(broker) as gateway, heard(broker, MARKS) as marks:
        sessions_held(database)
        gateway.backlog(WND, [event(i) for i in range(1, 11)])
        wait_for(lambda: (MARK, {"boot": 1, "seq": 10}) in marks, what="mark")
        before = len(marks)
        gateway.backlog(WND, [event(i) for i in range(1, 11)])
        wait_for(lambda: len(marks) > before, what="the same mark again")
        assert marks[before:] == [(MARK, {"boot": 1, "seq": 10})]


def test_a_new_worker_says_what_the_one_before_it_had_no_time_to_say(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker) as first, Gateway(broker) as gateway:
        sessions_held(database)
        gateway.backlog(WND, [event(i) for i in range(1, 11)])
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 10, what="stored")
        first.kill()
        first.wait()
        parts_of = urlsplit(broker)
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect(parts_of.hostname or "", parts_of.port or 0)
        client.loop_start()
        client.publish(MARK, b"", 1, retain=True).wait_for_publish(10)  # whatever it said is gone
        client.disconnect()
        client.loop_stop()
    with service("ingest", database, broker), subscriber(broker, MARKS) as marks:
        marked(marks, 1, 10)


def test_a_broker_that_has_forgotten_what_it_retained_is_told_again(mosquitto_of_mine: Mosquitto) -> None:
    broker = mosquitto_of_mine

    async def run() -> None:
        publisher = Publisher(broker.url, "publisher")
        running = asyncio.create_task(publisher.run())
        for topic in ("a/1", "a/2"):
            publisher.set(topic, b"7")
        assert await publisher.drained(30)
        broker.kill()
        (broker.folder / "mosquitto.db").unlink(missing_ok=True)
        await asyncio.to_thread(broker.start)
        with subscriber(broker.url, "a/+") as topics:
            await asyncio.to_thread(wait_for, lambda: topics == {"a/1": 7, "a/2": 7}, 60, "values at the new broker")
        running.cancel()

    asyncio.run(run())


def test_a_gap_that_nobody_will_fill_is_closed_by_hand_and_recorded(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker), Gateway(broker) as gateway, subscriber(broker, MARKS) as marks:
        sessions_held(database)
        gateway.cells(WND, [event(i) for i in (1, 2, 5, 6, 9)])
        marked(marks, 1, 2)
        listed = mes(parts, "ledger", "gaps").stdout.split()
        assert listed[-10:] == [MACHINE, "1", "3", "4", "2", MACHINE, "1", "7", "8", "2"]
        for words, problem in (
            ([MACHINE, "3-10", "--boot", "1"], "10 may still come"),
            ([MACHINE, "5-6", "--boot", "1"], "nothing is missing from 5 to 6"),
            ([MACHINE, "3-4", "--boot", "2"], "has sent nothing in boot 2"),
            (["nowhere", "3-4", "--boot", "1"], "machine 'nowhere' is unknown"),
            ([MACHINE, "4-3", "--boot", "1"], "not a sequence number or a range"),
        ):
            refused = mes(parts, "ledger", "close", *words, "--why", "x")
            assert refused.returncode == 2, refused
            assert problem in refused.stderr
        assert marks[MARK] == {"boot": 1, "seq": 2}
        done = mes(parts, "ledger", "close", MACHINE, "2-7", "--boot", "1", "--why", "disk of the machine replaced")
        assert done.stdout == f"closed 3 of machine {MACHINE}, boot 1\n"
        marked(marks, 1, 7)
        gateway.cells(WND, [event(3), event(8)])  # one of them turns up all the same
        marked(marks, 1, 9)
    assert rows(database, "SELECT seq FROM mes.cell_event ORDER BY seq") == [(n,) for n in (1, 2, 3, 5, 6, 8, 9)]
    assert rows(database, "SELECT boot, seqs::text, why FROM mes.gap_closing") == [(1, "{[3,5),[7,8)}", "disk of the machine replaced")]
    assert mes(parts, "ledger", "gaps").stderr == "nothing is missing\n"
    assert "disk of the machine replaced" in mes(parts, "ledger", "gaps", "--closed").stdout


def test_a_second_backend_with_a_database_of_its_own_is_refused_and_takes_nothing(parts: Parts, request: Any) -> None:
    database, broker = parts
    other = request.getfixturevalue("new_database")()
    with service("ingest", database, broker), Gateway(broker) as gateway, subscriber(broker, MARKS) as marks:
        sessions_held(database)
        gateway.cells(WND, [event(1)])
        marked(marks, 1, 1)
        refused = mes((other, broker), "ingest")
        assert refused.returncode == 2
        assert "takes its messages from this broker" in refused.stderr.splitlines()[-1]
        gateway.cells(WND, [event(i) for i in range(2, 11)])
        marked(marks, 1, 10)
    assert value(other, "SELECT count(*) FROM mes.cell_event") == 0
    with heard(broker, contract.holder_topic("nanjing", "cells", "32140-1")) as holder:
        threading.Event().wait(1.0)
        assert [(said["worker"], "mes_test_" in said["database"]) for _, said in holder] == [("", True)]  # who stops says so
    with (
        service("ingest", other, broker),
        Gateway(broker) as gateway,
        subscriber(broker, MARKS) as marks,
    ):  # once the first is stopped, it may
        sessions_held(other)
        gateway.cells(WND, [event(i, boot=2) for i in range(1, 4)])
        marked(marks, 2, 3)


def test_sigterm_ends_a_worker_whose_database_hangs_and_nothing_is_lost(parts: Parts) -> None:
    database, broker = parts
    with Gateway(broker) as gateway:
        with service("ingest", database, broker) as ingest, psycopg.connect(database) as other:
            sessions_held(database)
            other.execute("LOCK TABLE mes.cell_event IN EXCLUSIVE MODE")
            gateway.backlog(WND, [event(i) for i in range(1, 101)])
            wait_for(lambda: value(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") > 0, what="ingest waits for the lock")
            ingest.terminate()
            assert ingest.wait(30) == 0
        with service("ingest", database, broker):
            wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 100, 60, "stored")


def test_filters_that_a_former_version_has_left_are_taken_back(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker):
        sessions_held(database)
    rows(
        database,
        "UPDATE mes.line_session SET filters = filters || ARRAY['umh/v1/cbak/nanjing/cells/32140-1/+/+/_cell_v1/finished'] RETURNING 1",
    )
    with service("ingest", database, broker):
        only = list(contract.line_filters("nanjing", "cells", "32140-1"))
        wait_for(
            lambda: value(database, "SELECT filters FROM mes.line_session JOIN mes.line USING (line_id) WHERE code = '32140-1'") == only,
            what="filters as they are now",
        )


def set_back(database: str, seq: int) -> None:
    """As a restore to an older point does it: of WND's boot 1 there is only what came up to `seq`."""
    rows(database, "DELETE FROM mes.cell_event WHERE seq > %s RETURNING 1", seq)
    rows(database, "UPDATE mes.machine_ledger SET received = %s::int8multirange RETURNING 1", f"{{[1,{seq + 1})}}")


@contextlib.contextmanager
def logging(parts: Parts, log: Path) -> Iterator[None]:
    """`mes ingest` whose log is kept."""
    with log.open("ab") as out:
        running = subprocess.Popen([sys.executable, "-m", "mes", "ingest"], env=environment(*parts), stdout=out, stderr=out)
        with stopped_at_the_end(running):
            yield


SET_BACK = "the database holds less than 1 machines were told is committed (wnd/01 boot 1: told 100, holds 60): it was set back"


@pytest.mark.parametrize("how", ["put back", "given up"])
def test_marks_of_a_database_that_was_set_back_do_not_go_backwards(parts: Parts, tmp_path: Path, how: str) -> None:
    """It is said, the machine goes on, its mark stands still until what is missing is there again, or given up by hand."""
    database, broker = parts
    log = tmp_path / "log"
    with Gateway(broker) as gateway, heard(broker, MARKS) as marks:
        with logging(parts, log):
            sessions_held(database)
            gateway.backlog(WND, [event(i) for i in range(1, 101)])
            wait_for(lambda: (MARK, {"boot": 1, "seq": 100}) in marks, 30, "mark")
        assert "set back" not in log.read_text()
        assert mes(parts, "ledger", "lost").stderr == "nothing is lost: the database holds all that its machines were told is committed\n"
        set_back(database, 60)
        for _ in range(2):  # also by a worker that comes later
            del marks[:]
            with logging(parts, log):
                wait_for(lambda: SET_BACK in log.read_text(), 30, "that it is said")
                gateway.backlog(WND, [event(i) for i in range(101, 111)])
                gateway.cells(GRD, [event(1)])
                wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 71, 30, "stored")
                wait_for(lambda: any(topic != MARK for topic, _ in marks), 30, "the mark of another machine")
            assert [mark for topic, mark in marks if topic == MARK] == []
            assert log.read_text().count(SET_BACK) == 1
            log.unlink()
        listed = mes(parts, "ledger", "lost").stdout.split()
        assert listed[-4:] == [MACHINE, "1", "100", "60"]
        with logging(parts, log):
            if how == "put back":
                gateway.backlog(WND, [event(i) for i in range(61, 101)])
                wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 111, 30, "stored")
            else:
                assert "--why is missing" in mes(parts, "ledger", "lost", "--close").stderr
                done = mes(parts, "ledger", "lost", "--close", "--why", "restored to 10:00, the old disk is gone")
                assert done.stdout == "closed 40 of 1 machines\n", done
            wait_for(lambda: (MARK, {"boot": 1, "seq": 110}) in marks, 30, "the mark goes on")
            assert "their marks go on" in log.read_text()
        assert [mark["seq"] for topic, mark in marks if topic == MARK] == [110]
    closed = rows(database, "SELECT boot, seqs::text, why FROM mes.gap_closing")
    assert closed == ([] if how == "put back" else [(1, "{[61,101)}", "restored to 10:00, the old disk is gone")])


def test_a_boot_that_a_database_has_lost_whole_is_not_forgotten(parts: Parts, tmp_path: Path) -> None:
    """Nothing in the database tells of it; and the machine, which is at the next one, would soon let the mark move past it."""
    database, broker = parts
    with Gateway(broker) as gateway, heard(broker, MARKS) as marks:
        with logging(parts, tmp_path / "log"):
            sessions_held(database)
            gateway.cells(WND, [event(i, boot=7) for i in range(1, 6)])
            wait_for(lambda: (MARK, {"boot": 7, "seq": 5}) in marks, 30, "mark")
        rows(database, "DELETE FROM mes.cell_event RETURNING 1")
        rows(database, "DELETE FROM mes.machine_ledger RETURNING 1")
        del marks[:]
        with logging(parts, tmp_path / "log"):
            gateway.cells(WND, [event(i, boot=8) for i in range(1, 4)])
            wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") == 3, 30, "stored")
            assert mes(parts, "ledger", "lost").stdout.split()[-4:] == [MACHINE, "7", "5", "0"]
            assert marks == []
            assert mes(parts, "ledger", "lost", "--close", "--why", "gone").stdout == "closed 5 of 1 machines\n"
            wait_for(lambda: marks == [(MARK, {"boot": 8, "seq": 3})], 30, "the mark goes on")


def test_marks_of_another_database_are_no_promises(parts: Parts, request: Any, tmp_path: Path) -> None:
    """They are taken back, so that no machine lets go of what this database has never seen."""
    database, broker = parts
    other = request.getfixturevalue("new_database")()
    with Gateway(broker) as gateway:
        with logging(parts, tmp_path / "first"):
            sessions_held(database)
            gateway.backlog(WND, [event(i) for i in range(1, 101)])
            gateway.cells(GRD, [event(i) for i in range(1, 11)])
            with subscriber(broker, MARKS) as marks:
                marked(marks, 1, 100)
                marked(marks, 1, 10, GRD.replace("_cell_v1/completed", "_ledger_v1/committed"))
        for _ in range(2):
            with logging((other, broker), tmp_path / "other"):
                sessions_held(other)
                gateway.cells(WND, [event(1)])
                with subscriber(broker, MARKS) as marks:
                    marked(marks, 1, 1)
                    threading.Event().wait(1.0)
                    assert list(marks) == [MARK]
        assert "marks of another database are taken back" in (tmp_path / "other").read_text()
        assert "set back" not in (tmp_path / "other").read_text()
        with logging(parts, tmp_path / "again"), subscriber(broker, MARKS) as marks:
            marked(marks, 1, 100)
        assert "set back" not in (tmp_path / "again").read_text()
