"""The scripts of deploy/backup by themselves: what they refuse, and that they never overwrite or double anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import psycopg
import pytest

from mes.seeds import load_plant
from mes.states import StateEvent
from mes.store.seed import seed
from tests.conftest import SEEDS, Databases
from tests.lines import dump, held, step
from tests.pipeline import AT_MS, GRD, ROOT, WND, event, rows, value
from tests.servers import missing

BACKUP = ROOT / "deploy/backup"
LINE = "nanjing/cells/32140-1"
STATES = WND.replace("/_cell_v1/completed", "/_state_v1/changed")


@pytest.fixture(autouse=True, scope="module")
def client() -> None:
    if not shutil.which("psql"):
        missing("psql", "postgresql-client")


def script(name: str, *words: object, code: int = 0) -> str:
    done = subprocess.run([BACKUP / name, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "wal").mkdir()
    return tmp_path / "wal"


def test_a_segment_is_archived_whole_and_asking_again_is_fine(archive: Path, tmp_path: Path) -> None:
    segment = tmp_path / "of the log"
    segment.write_bytes(bytes(1 << 20) + b"end")
    for _ in range(2):
        assert script("archive-wal", segment, archive / "000000010000000000000001") == ""
        assert (archive / "000000010000000000000001").read_bytes() == segment.read_bytes()
        assert [path.name for path in archive.iterdir()] == ["000000010000000000000001"]


def test_a_segment_in_the_archive_is_never_overwritten(archive: Path, tmp_path: Path) -> None:
    """As when two servers write to one archive by mistake: the second is told so, and keeps its log."""
    (archive / "000000010000000000000001").write_bytes(b"of the first")
    (tmp_path / "segment").write_bytes(b"of the second")
    said = script("archive-wal", tmp_path / "segment", archive / "000000010000000000000001", code=1)
    assert "is there with another content: it is left alone" in said
    assert (archive / "000000010000000000000001").read_bytes() == b"of the first"


def test_an_archive_that_is_not_there_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(b"x")
    script("archive-wal", tmp_path / "segment", tmp_path / "not mounted/000000010000000000000001", code=1)
    script("archive-wal", tmp_path / "nowhere", tmp_path / "000000010000000000000001", code=1)
    assert not (tmp_path / "000000010000000000000001").exists()


def test_what_cannot_be_restored_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    base = tmp_path / "base/2026-11-25T10:00:00Z"
    base.mkdir(parents=True)
    (base / "backup_label").write_text("x")
    data, full, old = tmp_path / "data", tmp_path / "full", tmp_path / "old"
    full.mkdir()
    (full / "PG_VERSION").write_text("15")
    (old / "pg_wal").mkdir(parents=True)
    (old / "postmaster.pid").write_text("1\n")  # some process that is there
    for words, problem in (
        ([tmp_path], "say from where and to where"),
        ([tmp_path, full], "is not empty: move it away"),
        ([tmp_path, data, "yesterday or so"], "is no time: give one such as"),
        (
            [tmp_path, data, "2026-11-25 10:00:00Z"],
            "has no backup that ended before 2026-11-25 10:00:00Z: 2026-11-25T10:00:00Z is the oldest",
        ),
        (["--old", tmp_path / "nowhere", tmp_path, data], "is not there: --old wants the former data folder"),
        (["--old", old, tmp_path, data], "a server runs in"),
    ):
        assert problem in script("restore", *words, code=2)
        assert not data.exists()
    assert [path.name for path in full.iterdir()] == ["PG_VERSION"]


def test_of_several_backups_the_last_before_the_moment_is_taken(tmp_path: Path) -> None:
    for name in ("2026-11-23T10:00:00Z", "2026-11-24T10:00:00Z", "2026-11-25T10:00:00Z"):
        (tmp_path / "base" / name).mkdir(parents=True)
        (tmp_path / "base" / name / "of").write_text(name)
    for time, base in (
        ("2026-11-25 03:00:00+08", "2026-11-24T10:00:00Z"),
        ("2026-11-25 18:00:01+08", "2026-11-25T10:00:00Z"),
        (None, "2026-11-25T10:00:00Z"),
    ):
        data = tmp_path / f"data {time}"
        script("restore", tmp_path, data, *([time] if time else []))
        assert (data / "of").read_text() == base
        settings = (data / "postgresql.auto.conf").read_text()
        assert (f"recovery_target_time = '{'2026-11-24 19' if '03:00' in str(time) else '2026-11-25 10'}:00:0" in settings) == bool(time)
        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "recovery.signal").exists()


def told(database: str) -> dict[str, list[str]]:
    """Facts and ledger, as text."""
    with psycopg.connect(database) as connection:
        return {
            name: sorted(str(row) for (row,) in connection.execute(f"SELECT ({columns})::text FROM {name} AS t".encode()))
            for name, columns in (
                ("mes.cell_event", "to_jsonb(t) - ARRAY['received_at']"),
                ("mes.state_event", "t"),
                ("mes.quarantine", "to_jsonb(t) - ARRAY['quarantine_id']"),
                ("mes.machine_ledger", "machine_id, boot, received"),
            )
        }


def test_what_another_database_has_is_put_back_once_and_the_figures_follow(new_database: Databases) -> None:
    """Cells, states, and what was not understood: the target had some of it, has received more since, and discarded one thing."""
    source, target = new_database(), new_database()
    state = StateEvent(boot=1, seq=51, timestamp_ms=AT_MS, state="held", reason="a\treason\\with\nall of it")
    bad = msgspec.json.encode(event(52)).replace(b'"pass"', b'"good"')
    for database in (source, target):
        with held(database, LINE) as line:
            line.put(WND, *(event(i) for i in range(1, 31)))
    with held(source, LINE) as line:
        line.put(WND, *(event(i, lots={"cathode": 'CAT\t"1"'} if i % 2 else {}) for i in range(31, 51)))
        line.put(STATES, state)
        line.put_bytes(WND, bad, b"\x00\xff\\x", b"discarded")
        line.put(GRD, *(event(i, channel=i) for i in range(1, 41)))
    with held(target, LINE) as line:
        line.put(WND, *(event(i) for i in range(53, 61)))  # what came since
        line.put_bytes(WND, b"discarded")
    columns = "first_seen_at, last_seen_at, times, reason, detail, topic, machine_id, boot, seq, digest"
    gone = f"WITH d AS (DELETE FROM mes.quarantine RETURNING quarantine_id, {columns})"
    discarded = f"INSERT INTO mes.quarantine_discarded (quarantine_id, {columns}, bytes, why) SELECT *, 9, 'noise' FROM d RETURNING 1"
    rows(target, f"{gone} {discarded}")
    assert script("put-back", source, target, "2020-01-01") == "put back: 60 events, 1 states, 2 quarantined\n"
    after = told(target)
    assert set(told(source)["mes.cell_event"]) <= set(after["mes.cell_event"])
    assert after["mes.state_event"] == told(source)["mes.state_event"]
    assert len(after["mes.quarantine"]) == 2
    assert rows(target, "SELECT received::text FROM mes.machine_ledger ORDER BY machine_id") == [("{[1,61)}",), ("{[1,41)}",)]
    step(target)
    assert rows(target, "SELECT good, events FROM report.daily_throughput") == [(40, 98)]
    figures = dump(target)
    assert script("put-back", source, target, "2020-01-01") == "put back: 0 events, 0 states, 0 quarantined\n"
    assert told(target) == after
    step(target)
    assert dump(target) == figures
    # the next worker takes them for what they are
    with held(target, LINE) as line:
        line.put(WND, *(event(i) for i in range(31, 63)))
    assert value(target, "SELECT count(*) FROM mes.cell_event") == 100


def test_plants_that_do_not_mean_the_same_are_not_mixed(new_database: Databases) -> None:
    source, target = new_database(), new_database()
    plant = load_plant(SEEDS)
    line = plant.lines[LINE]
    more = msgspec.structs.replace(
        line, station=[msgspec.structs.replace(line.station[0], machines=line.station[0].machines + 1), *line.station[1:]]
    )
    seed(source, msgspec.structs.replace(plant, lines={**plant.lines, LINE: more}))
    with held(source, LINE) as writing:
        writing.put(GRD, event(1))
    said = script("put-back", source, target, "2020-01-01", code=2)
    assert "TARGET does not know what SOURCE means by machine" in said
    assert value(target, "SELECT count(*) FROM mes.cell_event") == 0
    assert "is no time" in script("put-back", source, target, "long ago", code=2)
    assert "say from where" in script("put-back", source, target, code=2)
