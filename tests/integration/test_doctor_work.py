"""`mes doctor` on what waits, what is missing and what stands still, and on machines whose clocks are off."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pytest

from mes.contract import CellEvent
from mes.doctor import clocks, work
from mes.doctor.finding import Finding, Level
from mes.store.calendars import TURN
from tests.conftest import SEEDS
from tests.diagnosis import check, execute, holding, levels, one
from tests.lines import held
from tests.pipeline import event, rows, service
from tests.plants import small_lines
from tests.servers import wait_for

NOTE, OK, PROBLEM, WARNING = Level.NOTE, Level.OK, Level.PROBLEM, Level.WARNING
LINE, OTHER = "nanjing/cells/32140-1", "dalian/cells/26650-1"


def looked(database: str, *checks, seeds: Path = SEEDS) -> list[Finding]:  # type: ignore[no-untyped-def]
    return check(database, *checks, wrap=lambda look: work.Work(look, seeds))


def sent(database: str, machine: str, *late_s: float, boot: int = 1, line: str = LINE) -> None:
    """Events of a machine that happened so many seconds ago by its clock, and came now."""
    now = time.time()
    events: list[CellEvent] = [
        event(n, boot=boot, timestamp_ms=int((now - late) * 1000), unit=f"{machine}-{boot}-{n}") for n, late in enumerate(late_s, 1)
    ]
    with held(database, line) as writing:
        writing.put(writing.topic(machine), *events)


def test_a_plant_that_is_not_there_is_another_or_has_no_target(database: str, tmp_path: Path) -> None:
    assert one(looked(database, work.plant), "plant.loaded", OK).found.startswith("2 lines, loaded 20")
    other = small_lines(tmp_path / "seeds", 100.0)
    assert "run `mes seed`" in one(looked(database, work.plant, seeds=other), "plant.seeds", WARNING).cure
    assert levels(looked(database, work.plant, seeds=tmp_path / "nothing"), "plant.seeds") == []
    execute(database, "DELETE FROM mes.target")
    assert one(looked(database, work.plant), "plant.targets", WARNING).found.startswith(f"{OTHER}, {LINE}: no target")
    execute(database, "UPDATE mes.line SET active = false")
    assert "`mes seed`" in one(looked(database, work.plant), "plant.loaded", PROBLEM).cure


def test_a_line_that_nobody_holds(database: str) -> None:
    assert levels(looked(database, work.leases), "lines.lease") == [PROBLEM, PROBLEM]
    with held(database, LINE):
        one(looked(database, work.leases), "lines.lease", PROBLEM, OTHER)
        assert "has not confirmed" in one(looked(database, work.leases), "lines.lease", WARNING, LINE).found
        execute(database, "INSERT INTO mes.line_session (line_id) SELECT line_id FROM mes.line")
        assert one(looked(database, work.leases), "lines.lease", OK).found == "1 line held by a worker"


def test_a_lease_in_another_database_of_the_server_is_not_this_ones(new_database, database: str) -> None:  # type: ignore[no-untyped-def]
    with held(new_database(), LINE):
        assert levels(looked(database, work.leases), "lines.lease") == [PROBLEM, PROBLEM]


def test_lines_that_are_silent(database: str) -> None:
    """By the time of receipt, and by scheduled time: nobody is woken for a planned stop."""
    sent(database, "wnd/01", 0.0)
    found = looked(database, work.silent)
    assert levels(found, "lines.silent") == [NOTE, OK]
    assert "nothing has ever come from dalian" in one(found, "lines.silent", NOTE).found
    execute(database, "UPDATE mes.cell_event SET received_at = now() - interval '30 min'", "DELETE FROM mes.planned_stop")
    execute(database, "DELETE FROM mes.shift_break", "DELETE FROM mes.holiday")  # so that the test is the same at any hour
    one(looked(database, work.silent), "lines.silent", WARNING, LINE)
    execute(database, "UPDATE mes.cell_event SET received_at = now() - interval '5 h'")
    one(looked(database, work.silent), "lines.silent", PROBLEM, LINE)
    stop = "site_id, now() - interval '1 day', now() + interval '1 h', 'x'"
    execute(database, f"INSERT INTO mes.planned_stop (site_id, begins, ends, reason) SELECT {stop} FROM mes.site")
    assert "of which 0.0 s were scheduled" in one(looked(database, work.silent), "lines.silent", OK, LINE).found


def test_marks_that_stand_that_go_and_that_wait_for_a_rollup(database: str, embedded_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_AGAIN_S", 2.0)
    assert levels(looked(database, work.marks), "rollup.marks") == [OK]
    assert levels(looked(database, work.marks), "rollup.runs") == [PROBLEM]
    sent(database, "wnd/01", *[300.0 * n for n in range(40, 0, -1)])
    found = looked(database, work.marks)
    assert "start `mes rollup`" in one(found, "rollup.marks", PROBLEM).cure
    assert "40 buckets to be summed" in one(found, "rollup.marks", PROBLEM).found
    with (
        holding(database, f"SELECT pg_advisory_lock({TURN}, line_id) FROM mes.line") as seeding,
        service("rollup", database, embedded_broker),
    ):
        wait_for(lambda: levels(looked(database, work.marks), "rollup.runs") == [OK], 60, "a rollup")
        assert "nobody is at them" in one(looked(database, work.marks), "rollup.marks", WARNING).found
        seeding.execute("SELECT pg_advisory_unlock_all()")
        wait_for(lambda: levels(looked(database, work.marks), "rollup.marks") == [OK], 60, "summed")
    assert rows(database, "SELECT count(*) FROM mes.dirty_bucket") == [(0,)]


def test_a_rollup_that_is_at_a_long_day_is_no_trouble(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_AGAIN_S", 0.5)
    sent(database, "wnd/01", 1.0)
    with holding(database, "SET application_name = 'mes rollup'", f"SELECT pg_advisory_lock_shared({TURN}, 1)"):
        assert "a rollup is at a day" in one(looked(database, work.marks), "rollup.marks", NOTE).found


def test_what_waits_in_the_quarantine_by_reason_with_the_command_to_look(database: str) -> None:
    assert levels(looked(database, work.quarantine), "quarantine") == [OK]
    with held(database, LINE) as line:
        from mes.batch import Batch

        batch = Batch()
        for payload in (b"{", b"[", b'{"boot":1}'):
            batch.add(line.topic("wnd/01"), payload, line.equipment, line.ledger)
        line.writer.commit(batch)
    found = one(looked(database, work.quarantine), "quarantine", WARNING, "not_json")
    assert found.found.startswith("2 messages in the quarantine (not_json), since 20")
    assert "`mes quarantine list --reason not_json`, `mes quarantine show 2`" in found.cure
    one(looked(database, work.quarantine), "quarantine", WARNING, "invalid")
    assert "{" not in found.found


def test_what_never_came(database: str) -> None:
    assert levels(looked(database, work.gaps), "gaps") == [OK]
    with held(database, LINE) as line:
        line.put(line.topic("wnd/01"), event(1), event(5), event(9))
        line.put(line.topic("wnd/02"), event(3))
    found = one(looked(database, work.gaps), "gaps", WARNING, LINE)
    assert found.found == f"{LINE}: 8 messages of 2 machines never came, in 3 gaps"
    assert f"`mes ledger gaps --line {LINE}`" in found.cure


def test_days_that_do_not_close(database: str) -> None:
    assert looked(database, work.open_days) == []
    execute(
        database,
        "INSERT INTO mes.day_report (line_id, production_day, ends_at, good, scrap, events)"
        " SELECT 1, current_date - n, now() - n * interval '1 day', 0, 0, 0 FROM generate_series(2, 6) AS n",
    )
    assert "4 days not closed that ended more than 3 days ago" in one(looked(database, work.open_days), "days.open", WARNING).found


# --- machines' clocks ------------------------------------------------------------------------------------------------------


def test_clocks_of_machines(database: str) -> None:
    """The median of what came lately: one event that is late says nothing, a machine that is always ahead does."""
    assert "cannot be seen" in one(looked(database, clocks.machines), "clock.machines", NOTE).found
    sent(database, "wnd/01", 2.0, 1.5, 1.0, 600.0)
    assert "1 machine, received 1." in one(looked(database, clocks.machines), "clock.machines", OK, LINE).found
    sent(database, "wnd/02", -40.0, -41.0)
    found = one(looked(database, clocks.machines), "clock.machines", WARNING, LINE)
    assert found.found == f"{LINE}: clocks ahead on 1 machine: wnd/02 40 s"
    assert "NTP" in found.cure
    sent(database, "wnd/03", -1200.0)
    assert "clocks ahead on 2 machines: wnd/03 20 min, wnd/02" in one(looked(database, clocks.machines), "clock.machines", PROBLEM).found
    sent(database, "wnd/04", 3000.0)
    assert "old events from 1 machine: wnd/04 50 min" in one(looked(database, clocks.machines), "clock.machines", WARNING, LINE).found


def test_clocks_that_are_days_ahead_are_seen_in_the_counts(database: str) -> None:
    assert looked(database, clocks.far_ahead) == []
    today = dt.datetime.now(dt.UTC).date()
    execute(
        database,
        f"INSERT INTO kpi.machine_day SELECT 1, '{today}', machine_id, 1, 10, 0, 7, 1, 10"
        " FROM mes.machine JOIN mes.station USING (station_id) WHERE line_id = 1 ORDER BY machine_id LIMIT 2",
    )
    found = one(looked(database, clocks.far_ahead), "clock.machines", WARNING)
    assert "14 events came more than 5 min before their time" in found.found
