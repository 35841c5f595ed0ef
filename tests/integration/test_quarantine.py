"""What was not understood: kept, shown, replayed after a fix in the seeds, discarded on the record."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mes.batch import Batch
from mes.contract import CellEvent, encode
from mes.errors import ConfigError
from mes.seeds import load_plant
from mes.store import quarantine
from mes.store.events import Writer, active_lines
from mes.store.quarantine import Selection
from mes.store.seed import seed
from mes.store.sums import Rollup
from tests.conftest import SEEDS
from tests.databases import FIXTURES, Databases
from tests.pipeline import GRD, WND, Gateway, environment, event, rows, service, sessions_held, value
from tests.servers import wait_for

PATH = "nanjing/cells/32140-1"
NEW = WND.replace("/wnd/01/", "/wnd/07/")  # a machine that the seeds do not know yet
EVERYTHING = Selection()


@pytest.fixture(params=FIXTURES)
def store(request: pytest.FixtureRequest) -> str:
    """A fresh database on each server."""
    databases: Databases = request.getfixturevalue(request.param)
    return databases()


class Worker:
    """An ingest worker without a broker. It holds the line's ledger in memory from the beginning on."""

    def __init__(self, database: str) -> None:
        self.writer = Writer.open(database, next(line for line in active_lines(database)[1] if line.path == PATH))
        self.equipment = self.writer.equipment()
        self.ledger = self.writer.ledger()

    def put(self, *messages: tuple[str, bytes]) -> Batch:
        batch = Batch()
        for topic, payload in messages:
            batch.add(topic, payload, self.equipment, self.ledger)
        self.writer.commit(batch)
        return batch


Workers = Callable[[str], Worker]


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Starts a worker on a database; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(database: str) -> Worker:
            started = Worker(database)
            stack.callback(started.writer.close)
            return started

        yield start


@pytest.fixture
def worker(store: str, workers: Workers) -> Worker:
    return workers(store)


def mend(database: str, folder: Path) -> None:
    """Seeds in which winding has a seventh machine, a defect W09 and a characteristic glue_mass."""
    shutil.copytree(SEEDS, folder)
    path = folder / "lines/nanjing-32140-1.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("machines = 6", "machines = 7", 1)
    text = text.replace("defect = [\n", 'defect = [\n  { code = "W09", name = "new", ppm = 1 },\n', 1)
    new = '  { name = "glue_mass", unit = "g", nominal = 1, sigma = 0.1, distribution = "normal", sampling = 1, '
    new += 'sampling_basis = "100%", basis = "J" },\n'
    path.write_text(text.replace("characteristic = [\n", f"characteristic = [\n{new}", 1), encoding="utf-8")
    assert seed(database, load_plant(folder))


def scrap(seq: int, **changes: Any) -> bytes:
    """An event whose defect the seeds do not know yet."""
    return encode(event(seq, result="scrap", defect="W09", **changes))


def array(*parts: CellEvent | bytes) -> bytes:
    return b"[" + b",".join(part if isinstance(part, bytes) else encode(part) for part in parts) + b"]"


def seqs(database: str, machine: str = "01") -> list[tuple[int, int]]:
    query = "SELECT boot, seq FROM mes.cell_event JOIN mes.machine USING (machine_id) WHERE code = %s ORDER BY 1, 2"
    return rows(database, query, machine)


def ledger(database: str, machine: str = "01") -> list[tuple[int, str, int]]:
    query = "SELECT boot, received::text, duplicates FROM mes.machine_ledger JOIN mes.machine USING (machine_id) WHERE code = %s ORDER BY 1"
    return rows(database, query, machine)


def waiting(database: str) -> list[tuple[str, int]]:
    return rows(database, "SELECT reason, times FROM mes.quarantine ORDER BY quarantine_id")


def summed(database: str) -> list[tuple[Any, ...]]:
    sums = Rollup(database)
    while sums.step():
        pass
    sums.close()
    return rows(database, "SELECT station, inspected, good, scrap FROM report.station_yield ORDER BY station_seq")


# --- replay ------------------------------------------------------------------------------------------------------------


def test_a_replay_after_a_fix_stores_what_is_understood_and_the_figures_follow(store: str, worker: Worker, tmp_path: Path) -> None:
    worker.put(
        (WND, array(event(1), scrap(2), event(3))),
        (WND, encode(event(4, meas={"glue_mass": 1.5}))),
        (WND, b'{"boot":1,"seq":5'),
        (NEW, array(*(event(n) for n in range(1, 4)), scrap(4), b'{"boot":1,"seq":5}')),
        (WND, encode(event(6)) + b" " * 70_000),
    )
    assert [reason for reason, _ in waiting(store)] == [
        "unknown_defect",
        "unknown_characteristic",
        "not_json",
        "unknown_machine",
        "oversize",
    ]
    assert (ledger(store), ledger(store, "07")) == ([(1, "{[1,5)}", 0)], [])
    assert summed(store) == [("wnd", 2, 2, 0)]
    before = quarantine.replay(store, EVERYTHING)
    assert (before.understood, before.stored, before.duplicates, sum(n for n, _ in before.stays.values())) == (0, 0, 0, 5)
    assert [times for _, times in waiting(store)] == [1] * 5

    mend(store, tmp_path / "seeds")
    outcome = quarantine.replay(store, EVERYTHING)
    assert (outcome.understood, outcome.stored, outcome.duplicates) == (3, 6, 0)
    assert sorted((reason, n) for reason, (n, _) in outcome.stays.items()) == [("not_json", 1), ("oversize", 1)]
    assert (seqs(store), seqs(store, "07")) == ([(1, n) for n in (1, 2, 3, 4)], [(1, n) for n in (1, 2, 3, 4)])
    assert ledger(store) == [(1, "{[1,5)}", 0)]
    # the machine was unknown: only now the ledger learns what it has sent, the one that is still bad as well
    assert ledger(store, "07") == [(1, "{[1,6)}", 0)]
    assert [reason for reason, _ in waiting(store)] == ["not_json", "oversize", "invalid"]
    assert value(store, "SELECT payload FROM mes.quarantine WHERE reason = 'invalid'") == b'{"boot":1,"seq":5}'
    assert rows(store, "SELECT meas[5] FROM mes.cell_event WHERE seq = 4 AND boot = 1 AND NOT meas[5] = 'NaN'") == [(1.5,)]
    assert summed(store) == [("wnd", 4, 6, 2)]  # the same cells at both machines
    again = quarantine.replay(store, EVERYTHING)
    assert (again.understood, again.stored, again.duplicates) == (0, 0, 0)
    assert [times for _, times in waiting(store)] == [1, 1, 1]


def test_received_is_when_it_came_first_and_not_when_it_was_replayed(store: str, worker: Worker, tmp_path: Path) -> None:
    worker.put((WND, scrap(1)))
    rows(store, "UPDATE mes.quarantine SET first_seen_at = '2026-11-20 01:02:03.456789Z' RETURNING 1")
    mend(store, tmp_path / "seeds")
    quarantine.replay(store, EVERYTHING)
    assert value(store, "SELECT received_at::text FROM mes.cell_event") == "2026-11-20 01:02:03.456789+00"


def test_every_sighting_is_accounted_for(store: str, worker: Worker, tmp_path: Path) -> None:
    for _ in range(3):
        worker.put((WND, scrap(1)), (WND, scrap(1)), (NEW, array(event(1), event(2))))
    assert waiting(store) == [("unknown_defect", 6), ("unknown_machine", 3)]
    mend(store, tmp_path / "seeds")
    outcome = quarantine.replay(store, EVERYTHING)
    assert (outcome.understood, outcome.stored, outcome.duplicates) == (2, 3, 5 + 2 * 2)
    assert (ledger(store), ledger(store, "07")) == ([(1, "{[1,2)}", 5)], [(1, "{[1,3)}", 4)])


def test_what_is_stored_already_is_a_duplicate(store: str, worker: Worker, workers: Workers, tmp_path: Path) -> None:
    """An identity counts once, by whatever message, at whatever time it is said to have happened."""
    worker.put((WND, encode(event(1))))
    worker.put((WND, scrap(1, timestamp_ms=event(9).timestamp_ms)))  # another event with an identity that is stored
    worker.put((WND, scrap(2)), (WND, scrap(2, timestamp_ms=event(9).timestamp_ms)), (WND, encode(event(2))))
    worker.put((NEW, encode(event(1))))
    mend(store, tmp_path / "seeds")
    workers(store).put((NEW, encode(event(1))))  # the machine has sent it again by itself
    outcome = quarantine.replay(store, EVERYTHING)
    assert (outcome.understood, outcome.stored, outcome.duplicates) == (4, 1, 3)
    assert rows(store, "SELECT seq, result FROM mes.cell_event JOIN mes.machine USING (machine_id) WHERE code = '01' ORDER BY 1, 2") == [
        (1, 0), (2, 2),
    ]  # fmt: skip
    assert seqs(store, "07") == [(1, 1)]
    assert (ledger(store), ledger(store, "07")) == ([(1, "{[1,3)}", 3)], [(1, "{[1,2)}", 1)])


def test_what_replay_understands_by_half_is_judged_anew(store: str, worker: Worker, tmp_path: Path) -> None:
    worker.put((NEW, encode(event(3, result="scrap", defect="W10"))))
    mend(store, tmp_path / "seeds")
    outcome = quarantine.replay(store, EVERYTHING)
    assert (outcome.understood, list(outcome.stays)) == (0, ["unknown_defect"])
    assert rows(store, "SELECT reason, boot, seq, counted, times FROM mes.quarantine") == [("unknown_defect", 1, 3, True, 1)]
    assert ledger(store, "07") == [(1, "{[3,4)}", 0)]  # it can be read now, so it counts as received
    rows(store, "UPDATE mes.defect SET code = 'W10' WHERE code = 'W09' RETURNING 1")
    assert quarantine.replay(store, EVERYTHING).stored == 1
    assert (seqs(store, "07"), ledger(store, "07")) == ([(1, 3)], [(1, "{[3,4)}", 0)])


def test_a_selection_replays_nothing_else(store: str, worker: Worker, tmp_path: Path) -> None:
    worker.put((WND, scrap(1)), (WND, scrap(2)), (NEW, encode(event(1))), (WND, encode(event(3, meas={"glue_mass": 1}))))
    mend(store, tmp_path / "seeds")
    first = quarantine.select(worker.writer._connection, EVERYTHING)[0]
    assert quarantine.replay(store, Selection(line="dalian/cells/26650-1")).understood == 0
    assert quarantine.replay(store, Selection(reason="unknown_machine")).stored == 1
    assert quarantine.replay(store, Selection(ids=[first])).stored == 1
    assert seqs(store) == [(1, 1)]
    assert quarantine.replay(store, Selection(line=PATH)).stored == 2
    with pytest.raises(ConfigError, match=f"entry {first} is not there"):
        quarantine.replay(store, Selection(ids=[first]))
    with pytest.raises(ConfigError, match="line 'nowhere' is unknown: use one of dalian"):
        quarantine.replay(store, Selection(line="nowhere"))


def test_many_are_replayed_in_pieces(store: str, worker: Worker, tmp_path: Path) -> None:
    worker.put(*((WND, scrap(n)) for n in range(1, 1002)))
    mend(store, tmp_path / "seeds")
    assert quarantine.replay(store, EVERYTHING).stored == 1001
    assert seqs(store) == [(1, n) for n in range(1, 1002)]
    assert waiting(store) == []


def test_a_replay_while_ingest_writes_the_same_events(store: str, worker: Worker, workers: Workers, tmp_path: Path) -> None:
    """Each event is stored once, whoever comes first, in whatever order the two take them."""
    events = [event(n) for n in range(1, 401)]
    worker.put(*((NEW, encode(e)) for e in events))
    mend(store, tmp_path / "seeds")
    live = workers(store)
    begin = threading.Barrier(2)
    counted: list[Batch] = []

    def ingest() -> None:
        begin.wait()
        for start in range(375, -1, -25):  # from the other end
            counted.append(live.put(*((NEW, encode(e)) for e in reversed(events[start : start + 25]))))

    thread = threading.Thread(target=ingest)
    thread.start()
    begin.wait()
    outcome = quarantine.replay(store, EVERYTHING)
    thread.join()
    assert outcome.understood == 400
    assert outcome.stored + sum(batch.events for batch in counted) == 400
    assert outcome.duplicates + sum(sum(batch.duplicates.values()) for batch in counted) == 400
    assert seqs(store, "07") == [(1, n) for n in range(1, 401)]
    assert ledger(store, "07") == [(1, "{[1,401)}", 400)]


def test_two_writers_of_the_same_events_in_another_order_both_end(store: str, workers: Workers) -> None:
    """They wait for each other's rows; the server breaks the knot, and the one that it chose tries again."""
    both = [workers(store), workers(store)]
    batches = [Batch(), Batch()]
    events = [event(n) for n in range(1, 4001)]
    for held, batch, order in zip(both, batches, (events, events[::-1]), strict=True):
        for e in order:
            batch.add(WND, encode(e), held.equipment, held.ledger)
    threads = [threading.Thread(target=held.writer.commit, args=[batch]) for held, batch in zip(both, batches, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(batch.events for batch in batches) == [0, 4000]
    assert seqs(store) == [(1, n) for n in range(1, 4001)]
    assert ledger(store) == [(1, "{[1,4001)}", 4000)]


def test_two_replays_at_once_count_nothing_twice(store: str, worker: Worker, tmp_path: Path) -> None:
    for _ in range(2):
        worker.put(*((WND, scrap(n)) for n in range(1, 601)))
    mend(store, tmp_path / "seeds")
    outcomes: list[quarantine.Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(quarantine.replay(store, EVERYTHING))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(o.understood for o in outcomes), sum(o.stored for o in outcomes), sum(o.duplicates for o in outcomes)) == (600, 600, 600)
    assert ledger(store) == [(1, "{[1,601)}", 600)]
    assert waiting(store) == []


def test_an_entry_that_is_seen_again_during_its_replay_is_taken_with_all_sightings(
    store: str, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.put((WND, scrap(1)))
    mend(store, tmp_path / "seeds")
    commit = Writer.commit

    def meanwhile(writer: Writer, *arguments: Any) -> int:
        monkeypatch.undo()
        worker.put((WND, scrap(1)))  # by a worker that has not heard of the new defect yet
        return commit(writer, *arguments)

    monkeypatch.setattr(Writer, "commit", meanwhile)
    outcome = quarantine.replay(store, EVERYTHING)
    assert (outcome.understood, outcome.stored, outcome.duplicates) == (1, 1, 1)
    assert (seqs(store), ledger(store), waiting(store)) == ([(1, 1)], [(1, "{[1,2)}", 1)], [])


def test_a_running_worker_counts_as_duplicate_what_a_replay_has_stored(parts: tuple[str, str], tmp_path: Path) -> None:
    """It holds the ledger in memory, and there these are unknown: the key of the table tells."""
    database, broker = parts
    events = [event(n) for n in range(1, 11)]
    with service("ingest", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.cells(NEW, events)
        wait_for(lambda: len(waiting(database)) == 10, what="quarantine")
        version = value(database, "SELECT max(version) FROM mes.plant_version")
        mend(database, tmp_path / "seeds")
        rows(database, "UPDATE mes.line_session SET established_at = 'epoch' RETURNING 1")
        wait_for(lambda: value(database, "SELECT bool_and(established_at > 'epoch') FROM mes.line_session"), 30, "the plant taken up anew")
        assert value(database, "SELECT max(version) FROM mes.plant_version") > version
        assert quarantine.replay(database, EVERYTHING).stored == 10
        gateway.cells(NEW, [*events, event(11)])
        wait_for(lambda: len(seqs(database, "07")) == 11, what="the one that is new")
        assert ledger(database, "07") == [(1, "{[1,12)}", 10)]
        assert seqs(database, "07") == [(1, n) for n in range(1, 12)]


# --- looking, discarding -----------------------------------------------------------------------------------------------


def test_what_is_discarded_leaves_a_record(store: str, worker: Worker) -> None:
    worker.put((WND, scrap(1)), (WND, scrap(1)), (WND, b"\xff{"), (NEW, encode(event(1))))
    connection = worker.writer._connection
    ids = quarantine.select(connection, Selection(reason="unknown_defect"))
    assert quarantine.discard(connection, ids, "a test of the machine's") == 1
    assert [reason for reason, _ in waiting(store)] == ["not_json", "unknown_machine"]
    (gone,) = quarantine.entries(connection, EVERYTHING, None, 10, discarded=True)
    assert (gone["reason"], gone["times"], gone["why"], gone["boot"], gone["seq"]) == ("unknown_defect", 2, "a test of the machine's", 1, 1)
    assert gone["discarded_by"] == value(store, "SELECT current_user")
    assert gone["bytes"] == len(scrap(1))
    worker.put((WND, scrap(1)))  # sent once more: it waits once more
    assert [reason for reason, _ in waiting(store)] == ["not_json", "unknown_machine", "unknown_defect"]
    assert ledger(store) == [(1, "{[1,2)}", 0)]


def test_the_view_counts_by_machine_reason_and_hour(store: str, worker: Worker) -> None:
    worker.put((WND, scrap(1)), (WND, scrap(1)), (WND, scrap(2)), (NEW, b"{}"), (GRD, b"{}"), ("elsewhere", b"{}"))
    assert rows(store, "SELECT line, machine, reason, entries, times FROM report.quarantine ORDER BY times DESC, machine, line") == [
        (PATH, "wnd/01", "unknown_defect", 2, 3), (PATH, "grd/01", "invalid", 1, 1), (PATH, None, "unknown_machine", 1, 1),
        (None, None, "topic", 1, 1),
    ]  # fmt: skip
    assert value(store, "SELECT bool_and(hour_starts_at = date_trunc('hour', now())) FROM report.quarantine")


def mes(database: str, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "mes", "quarantine", *words]
    done = subprocess.run(command, env=environment(database, ""), capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return (done.stdout if code == 0 else done.stderr).decode()


def test_commands(database: str, workers: Workers, tmp_path: Path) -> None:
    evil = b'{"boot":1,"unit":"\x1b[2J\xff\x00"}'
    workers(database).put((WND, evil), (WND, scrap(7)), (WND, scrap(8)), (NEW, encode(event(1))), (NEW, b"y" * 9000))
    listed = json.loads(mes(database, "list", "--format", "json"))
    assert [entry["reason"] for entry in listed] == ["unknown_machine"] * 2 + ["unknown_defect"] * 2 + ["not_json"]
    number = str(listed[-1]["quarantine_id"])
    assert "unknown_defect" in mes(database, "list", "--line", PATH, "--reason", "unknown_defect")
    assert mes(database, "list", "--since", "2100-01-01") == ""
    assert mes(database, "list", "--most", "2", "--format", "csv").count("\n") == 3
    shown = mes(database, "show", number)
    assert '{"boot":1,"unit":"\\x1b[2J\\xff\\x00"}' in shown
    assert f"topic          {WND}" in shown
    raw = subprocess.run(
        [sys.executable, "-m", "mes", "quarantine", "show", number, "--raw"], env=environment(database, ""), capture_output=True, check=True
    )
    assert raw.stdout == evil
    assert "4,999 in all" not in shown
    assert "(9,000 in all)" in mes(database, "show", str(listed[0]["quarantine_id"]))
    assert "nothing is selected" in mes(database, "replay", code=2)
    assert "is not there" in mes(database, "show", "999", code=2)
    assert "line 'x' is unknown" in mes(database, "list", "--line", "x", code=2)
    mend(database, tmp_path / "seeds")
    replayed = mes(database, "replay", "--all")
    assert "3 understood: 3 events stored, 0 duplicates; 2 stay" in replayed
    assert "1 not_json, e.g. " in replayed
    assert "why" in mes(database, "discard", number, code=2)
    mes(database, "discard", "--line", PATH, "--why", "old", code=1)  # nobody has said yes
    assert mes(database, "discard", number, "--why", "old") == "discarded 1\n"
    assert mes(database, "discard", "--line", PATH, "--why", "old", "--yes") == "discarded 1\n"
    assert mes(database, "list") == ""
    assert [entry["why"] for entry in json.loads(mes(database, "list", "--discarded", "--format", "json"))] == ["old", "old"]
    assert "discarded" in mes(database, "list", "--discarded")
