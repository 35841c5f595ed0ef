"""The edge cases of the KPI definitions, one test each or more, through the real database."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

from mes.contract import CellEvent
from mes.errors import ConfigError
from mes.present import percent
from mes.store import gaps, quarantine
from mes.store.connection import connect
from mes.store.corrections import unscrap
from tests.lines import Line, dump, held, look_at_days, step
from tests.pipeline import AT_MS, event

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
DAY = dt.date(2026, 11, 22)
MINUTE, HOUR, DAY_MS = 60_000, 3_600_000, 86_400_000
DAY_ENDS_MS = AT_MS - 2 * HOUR + DAY_MS  # 08:00 in Nanjing


@pytest.fixture
def line(database: str) -> Iterator[Line]:
    with held(database, NANJING) as line:
        yield line


class Cells:
    """Machines of a line that report one after the other; each counts its own messages."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._seq: dict[str, int] = {}
        self.sent: list[tuple[str, CellEvent]] = []

    def report(self, unit: str, station: str, result: str = "pass", *, at_ms: int = AT_MS, attempt: int = 1, **more: Any) -> CellEvent:
        machine = f"{station}/01"
        self._seq[machine] = self._seq.get(machine, 0) + 1
        if result != "pass":
            more["defect"] = next(iter(self._line.equipment.machine(self._line.topic(machine)).station.defect_ids))
        cell = event(self._seq[machine], unit=unit, result=result, timestamp_ms=at_ms, attempt=attempt, **more)
        self._line.put(self._line.topic(machine), cell)
        self.sent.append((machine, cell))
        return cell


@pytest.fixture
def cells(line: Line) -> Cells:
    return Cells(line)


def stations(line: Line) -> tuple[str, str]:
    """Codes of the first and the last station."""
    first, *_, last = [m.topic.split("/")[6] for m in line.equipment.machines()]
    return first, last


def view(database: str, name: str, **where: Any) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        condition = " AND ".join(f"{column} = %({column})s" for column in where) or "true"
        return connection.execute(f"SELECT * FROM report.{name} WHERE {condition}".encode(), where).fetchall()


def only(database: str, name: str, *, line: str = NANJING, production_day: dt.date = DAY, **where: Any) -> dict[str, Any]:
    (row,) = view(database, name, line=line, production_day=production_day, **where)
    return row


# -- 1, 2, 3: rework, re-tests, duplicates ------------------------------------------------------------------------------


def test_1_a_reworked_cell_misses_the_first_pass_and_is_good_in_the_end(database: str, cells: Cells) -> None:
    cells.report("S", "wnd", "rework")
    cells.report("S", "wnd", "pass", attempt=2, at_ms=AT_MS + MINUTE)
    step(database)
    row = only(database, "station_yield", station="wnd")
    assert (row["good"] + row["rework"] + row["scrap"], row["good"], row["rework"], row["scrap"]) == (2, 1, 1, 0)
    assert (row["inspected"], row["first_pass_good"], row["first_pass_yield"], row["quality_ratio"]) == (1, 0, 0.0, 0.5)
    assert (row["passed"], row["final_yield"], row["retests"]) == (1, 1.0, 0)


@pytest.mark.parametrize("apart_ms", [1, 10 * MINUTE, 5 * HOUR])
def test_1_a_re_test_is_counted_apart_and_raises_nothing(database: str, cells: Cells, apart_ms: int) -> None:
    cells.report("S", "wnd", "scrap")
    cells.report("S", "wnd", "pass", attempt=2, at_ms=AT_MS + apart_ms)  # nobody had called for another try
    step(database)
    row = only(database, "station_yield", station="wnd")
    assert (row["inspected"], row["first_pass_good"], row["first_pass_yield"], row["retests"]) == (1, 0, 0.0, 1)


@pytest.mark.parametrize("apart_ms", [0, 1, 10 * MINUTE, 5 * HOUR])
def test_1_a_cell_tested_twice_at_the_count_point_is_one_good_cell(database: str, line: Line, cells: Cells, apart_ms: int) -> None:
    last = stations(line)[1]
    cells.report("S", last)
    cells.report("S", last, attempt=2, at_ms=AT_MS + apart_ms)
    step(database)
    assert only(database, "daily_throughput")["good"] == 1
    assert sum(row["good"] for row in view(database, "hourly_throughput", line=NANJING, production_day=DAY)) == 1
    assert sum(row["good"] for row in view(database, "shift_throughput", line=NANJING, production_day=DAY)) == 1
    assert only(database, "station_yield", station=last)["good"] == 2, "two reports"


def test_2_a_message_that_comes_again_changes_nothing(database: str, line: Line, cells: Cells) -> None:
    for n in range(20):
        cells.report(f"S{n}", "wnd", "scrap" if n % 5 == 0 else "pass", at_ms=AT_MS + n * MINUTE)
    step(database)
    before = dump(database)
    for machine, cell in cells.sent:
        line.put(line.topic(machine), cell)
    assert step(database) == 0
    assert dump(database) == before
    assert only(database, "completeness", station="wnd", machine="01")["duplicates"] == 20
    assert only(database, "completeness", station="wnd", machine="01")["completeness"] == 1.0


@pytest.mark.parametrize("apart_ms", [1, 10 * MINUTE, 5 * HOUR])
def test_3_a_cell_that_comes_back_to_an_earlier_station_is_not_inspected_again(database: str, cells: Cells, apart_ms: int) -> None:
    cells.report("S", "wnd")
    cells.report("S", "flt", "rework", at_ms=AT_MS + 1)
    cells.report("S", "wnd", attempt=2, at_ms=AT_MS + apart_ms)
    cells.report("T", "wnd", "rework")
    cells.report("T", "wnd", attempt=1, at_ms=AT_MS + apart_ms)  # a machine that forgot that it had seen the cell
    step(database)
    row = only(database, "station_yield", station="wnd")
    assert (row["inspected"], row["first_pass_good"], row["first_pass_yield"]) == (2, 1, 0.5)
    assert only(database, "daily_throughput")["started"] == 2


@pytest.mark.parametrize("apart_ms", [10 * MINUTE, 5 * HOUR])
def test_3_the_first_report_counts_also_when_it_comes_last(database: str, cells: Cells, apart_ms: int) -> None:
    cells.report("T", "wnd", at_ms=AT_MS + apart_ms)
    step(database)
    assert only(database, "station_yield", station="wnd")["first_pass_yield"] == 1.0
    cells.report("T", "wnd", "rework", at_ms=AT_MS)
    step(database)
    row = only(database, "station_yield", station="wnd")
    assert (row["inspected"], row["first_pass_good"]) == (1, 0)


# -- 4: midnight --------------------------------------------------------------------------------------------------------


def test_4_a_cell_counts_on_the_day_of_its_completion(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    cells.report("before", last, at_ms=DAY_ENDS_MS - 1, cycle_s=3600.0)
    cells.report("after", last, at_ms=DAY_ENDS_MS, cycle_s=3600.0)  # begun an hour before the day
    step(database)
    assert only(database, "daily_throughput")["good"] == 1
    assert only(database, "daily_throughput", production_day=DAY + dt.timedelta(1))["good"] == 1
    night = next(row for row in view(database, "shift_throughput", line=NANJING, production_day=DAY) if row["shift"] == "night")
    assert night["good"] == 1


def test_4_the_cohort_is_that_of_the_start_and_open_until_every_cell_is_out(database: str, line: Line, cells: Cells) -> None:
    first, last = stations(line)
    for unit in ("good", "scrap", "under way"):
        cells.report(unit, first, at_ms=DAY_ENDS_MS - MINUTE)
    cells.report("good", last, at_ms=DAY_ENDS_MS + MINUTE)
    cells.report("scrap", last, "scrap", at_ms=DAY_ENDS_MS + MINUTE)
    step(database)

    def cohort() -> tuple[Any, ...] | None:
        with psycopg.connect(database) as connection:
            statement = "SELECT started, good, scrap, open, final_yield, is_open FROM report.cohort_yield(%s, %s, %s)"
            return connection.execute(statement, [NANJING, DAY, DAY]).fetchone()

    assert cohort() == (3, 1, 1, 1, 1 / 3, True)
    assert only(database, "daily_throughput")["good"] == 0
    assert only(database, "daily_throughput", production_day=DAY + dt.timedelta(1))["good"] == 1
    cells.report("under way", last, at_ms=DAY_ENDS_MS + 2 * DAY_MS)
    assert cohort() == (3, 2, 1, 0, 2 / 3, False)


def test_mean_and_spread_of_readings_keep_their_digits(database: str, line: Line) -> None:
    """Against fractions of the float32 values: what is stored, summed and divided is off by rounding once."""
    numbers = np.random.default_rng(3)
    readings = [float(np.float32(x)) for x in numbers.normal(3.295, 0.0033, 500)]
    line.put(
        line.topic("ocv/01"),
        *(event(n, unit=f"S{n}", timestamp_ms=AT_MS + n * MINUTE, meas={"ocv2": x}) for n, x in enumerate(readings, 1)),
    )
    step(database)
    row = only(database, "daily_characteristic", station="ocv", characteristic="ocv2")
    exact = [Fraction(x) for x in readings]
    mean = sum(exact) / 500
    variance = sum((x - mean) ** 2 for x in exact) / 499
    assert (row["n"], row["implausible"]) == (500, 0)
    assert [float(np.float32(row[name])) for name in ("lowest", "highest")] == [min(readings), max(readings)]
    assert row["mean"] == pytest.approx(float(mean), rel=2e-16)
    assert row["sd"] == pytest.approx(math.sqrt(variance), rel=4e-16)


# -- 5: taken back ------------------------------------------------------------------------------------------------------


def take_back(database: str, unit: str, station: str | None = None) -> Any:
    with connect(database) as connection:
        return unscrap(connection, unit, station, "found beside the line")


def close(database: str, silent: str = "61 minutes") -> None:
    """Let an hour pass without change, and the rollup look at the days."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE mes.day_report SET changed_at = changed_at - %s::interval", [silent])
    look_at_days(database)


def test_5_scrap_taken_back_while_its_day_is_open_restates_that_day(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    cells.report("S", "wnd", "scrap")
    cells.report("T", last)
    step(database)
    assert only(database, "daily_yield")["output_yield"] == 0.5
    done = take_back(database, "S")
    assert done.booked_at == done.scrapped_at
    step(database)
    row = only(database, "daily_throughput")
    assert (row["scrap"], row["scrap_restated"], only(database, "daily_yield")["output_yield"]) == (0, 0, 1.0)
    assert only(database, "station_yield", station="wnd")["scrap"] == 1, "the report stays"
    assert view(database, "restatements") == []


def test_5_scrap_taken_back_later_is_booked_on_its_own_day_and_both_figures_stay(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    cells.report("S", "wnd", "scrap")
    cells.report("T", last)
    step(database)
    close(database)
    assert only(database, "daily_throughput")["is_closed"]
    done = take_back(database, "S")
    step(database)
    today = view(database, "line_now", line=NANJING)[0]["production_day"]
    row, own = only(database, "daily_throughput"), only(database, "daily_throughput", production_day=today)
    assert (row["scrap"], row["scrap_restated"], own["scrap"], own["scrap_restated"]) == (1, 0, -1, 0)
    assert own["attainment"] == 0.0
    assert only(database, "daily_yield", production_day=today)["output_yield"] is None
    assert done.booked_at > done.scrapped_at
    (restated,) = view(database, "restatements")
    assert (restated["version"], restated["scrap_before"], restated["scrap"], restated["good_before"], restated["good"]) == (2, 1, 0, 1, 1)


def test_5_only_scrap_that_stands_can_be_taken_back(database: str, cells: Cells) -> None:
    cells.report("S", "wnd", "scrap")
    cells.report("S", "flt", "scrap", at_ms=AT_MS + 1)
    with pytest.raises(ConfigError, match=r"'S': 2 reports of scrap stand, by .*flt/01.*wnd/01: say which with --station"):
        take_back(database, "S")
    take_back(database, "S", "wnd")
    with pytest.raises(ConfigError, match="'S': its scrap was taken back already"):
        take_back(database, "S", "wnd")
    with pytest.raises(ConfigError, match="'X': no report of scrap is stored"):
        take_back(database, "X")


# -- 6, 7: lost, and blocked afterwards ---------------------------------------------------------------------------------


def test_6_a_cell_that_is_lost_is_work_in_progress_until_someone_says_otherwise(database: str, line: Line, cells: Cells) -> None:
    first, last = stations(line)
    for unit in ("lost", "good", "scrap", "back"):
        cells.report(unit, first)
    cells.report("good", last, at_ms=AT_MS + HOUR)
    cells.report("scrap", "flt", "scrap", at_ms=AT_MS + HOUR)
    cells.report("back", "flt", "scrap", at_ms=AT_MS + HOUR)
    step(database)
    assert view(database, "line_now", line=NANJING)[0]["wip"] == 1
    assert only(database, "daily_throughput")["scrap"] == 2
    take_back(database, "back")
    step(database)
    assert view(database, "line_now", line=NANJING)[0]["wip"] == 2, "it is on the line again"


def test_7_good_output_of_the_past_is_not_rewritten(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    cells.report("S", last)
    step(database)
    close(database)
    cells.report("S", last, "scrap", attempt=2, at_ms=DAY_ENDS_MS + HOUR)  # its lot turned out bad the next day
    step(database)
    assert only(database, "daily_throughput")["good"] == 1
    assert only(database, "daily_throughput", production_day=DAY + dt.timedelta(1))["scrap"] == 1
    assert view(database, "restatements") == []


# -- 8: counters --------------------------------------------------------------------------------------------------------


def test_8_a_machine_that_begins_to_count_anew_loses_nothing_and_gaps_are_named(database: str, line: Line) -> None:
    topic = line.topic("wnd/01")
    for boot, seqs in ((1, (1, 2, 3, 7, 8)), (2, (1, 2, 4))):
        line.put(topic, *(event(seq, boot=boot, unit=f"S{boot}{seq}", timestamp_ms=AT_MS + boot * MINUTE + seq) for seq in seqs))
    step(database)
    row = only(database, "completeness", station="wnd", machine="01")
    assert (row["expected"], row["received"], row["missing"], row["completeness"]) == (12, 8, 4, 8 / 12)
    assert row["missing_ranges"] == [{"boot": 1, "first": 4, "last": 6}, {"boot": 2, "first": 3, "last": 3}]
    day = only(database, "daily_throughput")
    assert (day["events"], day["missing"], day["completeness"]) == (8, 4, 8 / 12)
    line.put(topic, *(event(seq, unit=f"S1{seq}", timestamp_ms=AT_MS + seq) for seq in (4, 5, 6)))
    step(database)
    day = only(database, "daily_throughput")
    assert (day["events"], day["missing"], day["completeness"]) == (11, 1, 11 / 12)


def test_8_a_gap_over_the_boundary_of_days_is_filled_on_both(database: str, line: Line) -> None:
    topic = line.topic("wnd/01")
    line.put(topic, event(1, timestamp_ms=DAY_ENDS_MS - 2), event(4, timestamp_ms=DAY_ENDS_MS + 2, unit="S4"))
    step(database)
    assert [row["missing"] for row in sorted(view(database, "daily_throughput", line=NANJING), key=lambda r: r["production_day"])[:2]] == [
        0,
        2,
    ]
    line.put(topic, event(2, timestamp_ms=DAY_ENDS_MS - 1, unit="S2"))
    step(database)
    assert [row["missing"] for row in sorted(view(database, "daily_throughput", line=NANJING), key=lambda r: r["production_day"])[:2]] == [
        0,
        1,
    ]
    line.put(topic, event(3, timestamp_ms=DAY_ENDS_MS - 1, unit="S3"))
    step(database)
    assert missing(database) == [0, 0]


def missing(database: str) -> list[int]:
    """What is missing of the day and the day after it."""
    return [only(database, "daily_throughput", production_day=DAY + dt.timedelta(n))["missing"] for n in (0, 1)]


def test_8_a_gap_that_is_closed_by_hand_is_expected_no_more(database: str, line: Line) -> None:
    line.put(line.topic("wnd/01"), event(5))
    step(database)
    assert only(database, "daily_throughput")["completeness"] == 1 / 5
    with connect(database) as connection:
        gaps.close(connection, f"{NANJING}/wnd/01", 1, 1, 4, "it had counted before it was connected")
    look_at_days(database)
    row = only(database, "daily_throughput")
    assert (row["missing"], row["completeness"]) == (0, 1.0)
    assert only(database, "completeness", station="wnd", machine="01")["expected"] == 1


@pytest.mark.parametrize("end", ["replayed", "discarded"])
def test_what_waits_in_the_quarantine_is_lacking_until_it_is_judged(database: str, line: Line, end: str) -> None:
    now_ms = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    line.put(line.topic("wnd/01"), *(event(n, timestamp_ms=now_ms + n) for n in (1, 2)))
    line.put(line.topic("wnd/01"), event(3, timestamp_ms=now_ms + 3, result="scrap", defect="W99"))
    step(database)
    (row,) = view(database, "daily_throughput", line=NANJING)
    assert (row["events"], row["quarantined"], row["missing"], row["completeness"]) == (2, 1, 0, 2 / 3)
    (machine,) = view(database, "completeness", station="wnd", machine="01")
    assert (machine["expected"], machine["received"], machine["quarantined"]) == (3, 2, 1)
    with connect(database) as connection:
        if end == "replayed":
            station_id = connection.execute(
                "SELECT station_id FROM mes.station WHERE code = 'wnd' AND line_id = %s", [line.writer.line.line_id]
            )
            connection.execute("INSERT INTO mes.defect (station_id, code, name) VALUES (%s, 'W99', 'new')", station_id.fetchone())
            assert quarantine.replay(database, quarantine.Selection()).stored == 1
        else:
            assert quarantine.discard(connection, quarantine.select(connection, quarantine.Selection()), "a test message") == 1
    step(database)
    look_at_days(database)
    (row,) = view(database, "daily_throughput", line=NANJING)
    assert (row["events"], row["quarantined"], row["completeness"]) == (3 if end == "replayed" else 2, 0, 1.0)


# -- 9: late and ahead --------------------------------------------------------------------------------------------------


def test_9_an_event_two_days_late_changes_its_own_day_and_is_told(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    for n in range(3):
        cells.report(f"S{n}", last, at_ms=AT_MS + n * DAY_MS - 4 * DAY_MS)
    step(database)
    close(database)
    assert view(database, "restatements") == []
    before = {row["production_day"]: row for row in view(database, "daily_throughput", line=NANJING)}
    cells.report("late", last, at_ms=AT_MS - 3 * DAY_MS + HOUR)
    step(database)
    after = {row["production_day"]: row for row in view(database, "daily_throughput", line=NANJING)}
    own = DAY - dt.timedelta(3)
    assert {day for day in after if after[day] != before[day]} == {own}
    assert (before[own]["good"], after[own]["good"], after[own]["version"], before[own]["version"]) == (1, 2, 2, 1)
    (told,) = view(database, "restatements")
    assert (told["production_day"], told["good_before"], told["good"], told["events_before"], told["events"]) == (own, 1, 2, 1, 2)
    assert only(database, "completeness", production_day=own, station=last, machine="01")["late"] == 2, "both came after their day"


def test_9_a_day_that_is_not_closed_is_not_restated(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    for n in range(3):
        cells.report(f"S{n}", last, at_ms=AT_MS + n)
        step(database)
        look_at_days(database)
    assert not only(database, "daily_throughput")["is_closed"], "it changed a moment ago"
    assert view(database, "restatements") == []


def test_9_a_clock_that_is_ahead_is_flagged_and_counted(database: str, line: Line, cells: Cells) -> None:
    now_ms = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    cells.report("in time", "wnd", at_ms=now_ms)
    cells.report("four minutes", "wnd", at_ms=now_ms + 4 * MINUTE)
    cells.report("a year", "wnd", at_ms=now_ms + 365 * DAY_MS)
    step(database)
    look_at_days(database)
    rows = view(database, "daily_throughput", line=NANJING)
    assert sum(row["events"] for row in rows) == 3
    assert sum(row["clock_ahead"] for row in rows) == 1
    assert view(database, "line_now", line=NANJING)[0]["production_day"] <= dt.datetime.now(dt.UTC).date() + dt.timedelta(1)
    assert [row["is_clock_ahead"] for row in view(database, "unit_visit", unit="a year")] == [True]
    assert len(rows) <= 3, "the days until then are not opened"


# -- 10 to 13 -----------------------------------------------------------------------------------------------------------


def test_10_a_serial_on_two_lines_counts_on_each(database: str, line: Line, cells: Cells) -> None:
    cells.report("S", stations(line)[1])
    with held(database, DALIAN) as other:
        Cells(other).report("S", stations(other)[1])
    step(database)
    assert only(database, "daily_throughput")["good"] == 1
    assert only(database, "daily_throughput", line=DALIAN)["good"] == 1
    assert only(database, "daily_throughput", line=DALIAN)["product"] == "26650"


def test_11_an_empty_day_has_counts_of_nothing_and_no_ratio(database: str, cells: Cells) -> None:
    cells.report("S", "wnd")
    step(database)
    look_at_days(database)
    assert len(view(database, "daily_throughput", line=NANJING)) == 1, "the line may be behind"
    close(database, silent="11 minutes")
    rows = {row["production_day"]: row for row in view(database, "daily_throughput", line=NANJING)}
    today = view(database, "line_now", line=NANJING)[0]["production_day"]
    assert sorted(rows) == [DAY + dt.timedelta(n) for n in range((today - DAY).days + 1)], "no day is left out, today is there"
    empty = rows[DAY + dt.timedelta(1)]
    assert (empty["good"], empty["scrap"], empty["events"], empty["target"], empty["gap"]) == (0, 0, 0, 50_000, -50_000)
    assert (empty["attainment"], empty["completeness"], empty["last_event_at"]) == (0.0, None, None)
    yields = only(database, "daily_yield", production_day=DAY + dt.timedelta(1))
    assert (yields["output_yield"], yields["rolled_throughput_yield"], yields["first_pass_yield"]) == (None, None, None)
    shifts = view(database, "shift_throughput", line=NANJING, production_day=DAY + dt.timedelta(1))
    assert [(row["good"], row["target"]) for row in sorted(shifts, key=lambda r: r["shift_of_day"])] == [(0, 25_000.0), (0, 25_000.0)]


def test_12_a_ratio_below_one_never_reads_as_one(database: str, line: Line, cells: Cells) -> None:
    assert percent(19_999 / 20_000) == "99.99 %"
    assert percent(1.0) == "100.00 %"
    assert percent(None) == "–"


def test_13_yields_are_combined_by_counts(database: str, line: Line, cells: Cells) -> None:
    last = stations(line)[1]
    for n in range(9):
        cells.report(f"A{n}", last, at_ms=AT_MS + n)
    cells.report("B", last, "scrap", at_ms=AT_MS + 13 * HOUR)
    cells.report("C", last, at_ms=AT_MS + 13 * HOUR)
    step(database)
    by_shift = [row["good"] / (row["good"] + row["scrap"]) for row in view(database, "shift_throughput", line=NANJING, production_day=DAY)]
    assert sorted(by_shift) == [0.5, 1.0]
    assert only(database, "daily_yield")["output_yield"] == 10 / 11
