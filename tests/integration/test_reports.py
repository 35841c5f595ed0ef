"""`mes report`: what the views hold, in each form; who asks for what is not there is told so in a line; the page of a day."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from lxml import html
from psycopg.rows import dict_row

from mes import present
from mes.batch import Batch
from mes.cli import main
from mes.contract import encode
from mes.seeds import load_plant
from mes.store.connection import connect
from mes.store.corrections import unscrap
from mes.store.seed import seed
from tests.conftest import SEEDS, Databases
from tests.lines import Line, held, look_at_days, step
from tests.pipeline import event, rows

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
DAY, EMPTY = "2026-11-22", "2026-11-23"
BEGIN_MS = 1_795_305_600_000  # when it began in Nanjing
HOUR_MS = 3_600_000
EVIL = "<img src=x onerror=\"alert(1)\"> & 'co'"
SERIAL = "<b onclick=alert(1)>U</b>"

Row = dict[str, Any]


@pytest.fixture(scope="module")
def database(new_database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A day of two lines with all that a report tells of, whose names are as evil as they can be."""
    url = new_database()
    folder = tmp_path_factory.mktemp("evil") / "seeds"
    shutil.copytree(SEEDS, folder)
    path = folder / "lines/nanjing-32140-1.toml"
    text = path.read_text()
    for old in (
        'name = "32140 tab-less LFP line"',
        'name = "electrode/separator break"',
        'name = "Winding (both foil edges bare, pre-cut flags)"',
    ):
        assert old in text
        text = text.replace(old, f"name = {json.dumps(EVIL)}", 1)
    path.write_text(text)
    seed(url, load_plant(folder))
    with held(url, NANJING) as line:
        put(line, "wnd/01", [*range(1, 41), *range(45, 50), 60])
        put(line, "wnd/02", range(1, 8), result="scrap", defect="W01")
        put(line, "wnd/03", range(1, 3), result="scrap", defect="W02", unit=SERIAL)
        put(line, "hpt/01", range(1, 5), result="rework", defect="H01", attempt=1)
        put(line, "hpt/01", range(5, 30), attempt=2)
        put(line, "grd/01", range(1, 21), meas={"capacity_0.5C": 15.1})
        put(line, "grd/02", [*range(1, 11), 12])
        put(line, "wnd/01", range(1, 4))  # again
        batch = Batch()
        batch.add(line.topic("grd/03"), encode(event(1, timestamp_ms=BEGIN_MS, result="scrap", defect="R99")), line.equipment, line.ledger)
        line.writer.commit(batch)
    with held(url, DALIAN) as line:
        put(line, "grd/01", range(1, 6))
    step(url)
    look_at_days(url)
    rows(url, "UPDATE mes.quarantine SET first_seen_at = %s RETURNING 1", dt.datetime.fromtimestamp(BEGIN_MS / 1000 + 60, dt.UTC))
    rows(url, "UPDATE mes.day_report SET closed_at = now() WHERE production_day = %s RETURNING 1", DAY)
    with held(url, NANJING) as line:
        put(line, "grd/04", range(1, 3))  # a restatement
    with connect(url) as connection:
        unscrap(connection, "wnd/02-3", None, "found")
    rows(
        url,
        "INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT line_id, %s FROM mes.line RETURNING 1",
        dt.datetime.fromtimestamp(BEGIN_MS / 1000, dt.UTC),
    )
    step(url)
    look_at_days(url)
    rows(
        url,
        "INSERT INTO mes.alert_history (line_id, name, raised_at, reason, cleared_at, clear_reason)"
        " SELECT line_id, 'yield_low', %s, %s, %s, 'good again' FROM mes.line WHERE path = %s RETURNING 1",
        dt.datetime.fromtimestamp(BEGIN_MS / 1000 + 7200, dt.UTC), EVIL, dt.datetime.fromtimestamp(BEGIN_MS / 1000 + 9000, dt.UTC), NANJING,
    )  # fmt: skip
    yield url


def put(line: Line, machine: str, seqs: Any, **changes: Any) -> None:
    """Events of a machine, spread over the hours of the day."""
    line.put(line.topic(machine), *(
        event(seq, **{"unit": f"{machine}-{seq}", "timestamp_ms": BEGIN_MS + seq * 17 % 24 * HOUR_MS + seq, **changes}) for seq in seqs
    ))  # fmt: skip


@pytest.fixture
def mes(database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`mes report` in this process."""
    monkeypatch.setenv("MES_DATABASE_URL", database)

    def run(*words: str) -> Result:
        result = CliRunner().invoke(main, ["report", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def view(database: str, name: str, where: str = "true", order: str = "1, 2") -> list[Row]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute(f"SELECT * FROM report.{name} WHERE {where} ORDER BY {order}".encode()).fetchall()


def as_told(rows: list[Row]) -> list[Row]:
    """As JSON holds them."""
    told: list[Row] = json.loads(present.as_json(rows))
    return told


# --- the forms ---------------------------------------------------------------------------------------------------------

REPORTS = {
    "shift": ("shift_throughput", "production_day DESC, line, shift_of_day"),
    "yield": ("station_yield", "production_day DESC, line, station_seq"),
    "pareto": ("defect_pareto", "production_day DESC, line, rank"),
    "completeness": ("completeness", "production_day DESC, line, missing + quarantined DESC, station, machine"),
}
OF_THE_MOMENT = {"pace_per_h"}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("line", [NANJING, None])
def test_json_is_the_view(mes: Any, database: str, name: str, line: str | None) -> None:
    words = ["--line", line] if line else []
    words += ["--every", "--most", "1000"] if name == "completeness" else []
    told = json.loads(mes(name, "--day", DAY, "--format", "json", *words).stdout)
    of, order = REPORTS[name]
    where = f"production_day = '{DAY}'" + (f" AND line = '{line}'" if line else "")
    expected = as_told(view(database, of, where, order))
    assert [row | dict.fromkeys(OF_THE_MOMENT & row.keys()) for row in told] == [
        row | dict.fromkeys(OF_THE_MOMENT & row.keys()) for row in expected
    ]
    assert len(told) > 1


def test_daily_is_both_views(mes: Any, database: str) -> None:
    told = json.loads(mes("daily", "--day", DAY, "--format", "json").stdout)
    throughput, yields = (as_told(view(database, name, f"production_day = '{DAY}'")) for name in ("daily_throughput", "daily_yield"))
    assert [row["line"] for row in told] == [DALIAN, NANJING]
    for row, of, also in zip(told, throughput, yields, strict=True):
        assert row == {name: of.get(name, also.get(name)) for name in row}
    assert told[1]["good"] == 33
    assert told[1]["version"] == 2


@pytest.mark.parametrize("name", ["daily", *REPORTS])
def test_csv_has_the_same_rows(mes: Any, name: str) -> None:
    told = json.loads(mes(name, "--day", DAY, "--format", "json").stdout)
    read = list(csv.DictReader(io.StringIO(mes(name, "--day", DAY, "--format", "csv").stdout)))
    assert [list(row) for row in read] == [list(row) for row in told]
    for row, of in zip(read, told, strict=True):
        assert [(k, row[k]) for k in ("line", "production_day")] == [(k, of[k]) for k in ("line", "production_day")]
        for key, value in of.items():
            if isinstance(value, int) and not isinstance(value, bool):
                assert row[key] == str(value)
            elif value is None:
                assert row[key] == ""
            elif isinstance(value, list | dict):
                assert json.loads(row[key]) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("daily",), ["33", "50,000", "0.06 %"]),
        (("shift",), ["night", "08:00", "20:00", "25,000"]),
        (("yield", "--station", "wnd"), ["wnd", "83.63 %", EVIL]),
        (("pareto",), ["W01", "7", EVIL]),
        (("completeness",), ["wnd/01", "boot 1: 41-44, boot 1: 50-59", "grd/03"]),
        (("unit", SERIAL), ["wnd", "scrap", "W02"]),
        (("unit", "wnd/02-3"), ["scrap (taken back)"]),
        (("unit", "grd/01-1"), ["capacity_0.5C 15.1"]),
    ],
)  # fmt: skip
def test_a_table_for_people(mes: Any, words: tuple[str, ...], said: list[str]) -> None:
    result = mes(*words, *(() if words[0] == "unit" else ("--day", DAY, "--line", NANJING)))
    assert result.exit_code == 0, result.output
    plain = re.sub(r"\s+", " ", result.stdout)
    assert [part for part in said if part not in plain] == []


def test_a_unit_in_other_forms(mes: Any, database: str) -> None:
    told = json.loads(mes("unit", "grd/01-20", "--format", "json").stdout)
    with psycopg.connect(database, row_factory=dict_row) as connection:
        assert told == as_told(connection.execute("SELECT * FROM report.unit_history('grd/01-20')").fetchall())
    (row,) = csv.DictReader(io.StringIO(mes("unit", "grd/01-20", "--format", "csv").stdout))
    assert json.loads(row["readings"]) == told[0]["readings"]


def test_a_stretch_of_days_and_the_newest(mes: Any, database: str) -> None:
    days = [f"{d}" for (d,) in rows(database, "SELECT DISTINCT production_day FROM report.daily_throughput ORDER BY 1 DESC")]
    assert len(days) > 2
    told = json.loads(mes("daily", "--line", "nanjing", "--from", DAY, "--to", EMPTY, "--format", "json").stdout)
    assert [row["production_day"] for row in told] == [EMPTY, DAY]
    assert [row["production_day"] for row in json.loads(mes("daily", "--line", NANJING, "--format", "json").stdout)] == days[:20]
    assert [row["production_day"] for row in json.loads(mes("shift", "--line", NANJING, "--format", "json").stdout)] == days[:1] * 2
    assert {row["production_day"] for row in json.loads(mes("shift", "--to", EMPTY, "--format", "json").stdout)} == {EMPTY, DAY}


def test_no_more_rows_than_asked_for(mes: Any) -> None:
    result = mes("yield", "--day", DAY, "--most", "2", "--format", "csv")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "these are the first 2 rows: --most for more\n"
    assert mes("pareto", "--most", "0").exit_code == 2
    assert mes("daily", "--most", "100001").exit_code == 2


# --- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["daily", *REPORTS, "day"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--line", "ohio/cells/9"), f"mes: line 'ohio/cells/9' is unknown: use one of {DALIAN}, {NANJING}\n"),
        (("--line", "cells"), f"mes: line 'cells' is not the name of one line only: use one of {DALIAN}, {NANJING}\n"),
        (("--line", "'; DROP TABLE mes.line; --"), f'mes: line "\'; DROP TABLE mes.line; --" is unknown: use one of {DALIAN}, {NANJING}\n'),
        (("--day", "2020-02-29"), "mes: production day 2020-02-29 has no figures: there are those from 2026-11-22 to "),
        (("--day", "2020-02-30"), "Error: Invalid value for '--day'"),
        (("--day", "tomorrow"), "Error: Invalid value for '--day'"),
    ],
    ids=["line", "two lines", "injection", "day", "no day", "word"],
)
def test_what_is_unknown_is_said_in_a_line(mes: Any, tmp_path: Path, name: str, words: tuple[str, str], said: str) -> None:
    more = ("--html", str(tmp_path / "x.html")) if name == "day" else ()
    result = mes(name, *words, *more)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("yield", "--station", "zzz"), "mes: station 'zzz' is unknown: use one of wnd, "),
        (("pareto", "--station", EVIL), "mes: station "),
        (("unit", "NOBODY"), "mes: unit 'NOBODY' has no visit that is stored: check the serial\n"),
        (("unit", "x" * 5000), "has no visit that is stored"),
        (("daily", "--from", "2026-11-23", "--to", "2026-11-22"), "ends before it begins"),
        (("daily", "--day", DAY, "--to", DAY), "say one day, or the ends of a stretch"),
        (("daily", "--from", "2030-01-01"), "production day 2030-01-01 to ... has no figures"),
        (("day", "--html", "/nowhere/x.html", "--day", DAY), "mes: --html /nowhere/x.html: No such file or directory: name a file"),
    ],
)  # fmt: skip
def test_what_else_is_refused(mes: Any, words: tuple[str, ...], said: str) -> None:
    result = mes(*words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("yield",), "no station has reported a cell on 2026-11-23"),
        (("pareto",), "no defect was reported on 2026-11-23"),
        (("completeness",), "nothing is missing, late, in quarantine or came twice on 2026-11-23"),
    ],
)
def test_a_day_without_events_is_a_friendly_line(mes: Any, words: tuple[str, ...], said: str) -> None:
    result = mes(*words, "--day", EMPTY)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", said + "\n")
    assert json.loads(mes(*words, "--day", EMPTY, "--format", "json").stdout) == []


def test_a_plant_that_never_worked(new_database: Databases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MES_DATABASE_URL", new_database())
    for name in ("daily", *REPORTS):
        result = CliRunner().invoke(main, ["report", name])
        assert (result.exit_code, result.stderr) == (0, "no production day has figures yet\n")
    result = CliRunner().invoke(main, ["report", "day", "--html", str(tmp_path / "x.html")])
    assert (result.exit_code, result.stderr) == (2, "mes: no production day is over yet: say one that runs by --day\n")


# --- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(mes: Any, tmp_path: Path) -> Any:
    """Writes the page of the day, returns it parsed."""

    def write(*words: str) -> Any:
        file = tmp_path / "day.html"
        result = mes("day", "--html", str(file), *words)
        assert result.exit_code == 0, result.output
        return html.fromstring(file.read_text(encoding="utf-8"))

    return write


def table(section: Any, name: str) -> list[list[str]]:
    """The cells of a table, without those of plots."""
    return [
        [" ".join(cell.text_content().split()) for cell in row.xpath("td[not(contains(@class, 'plot-cell'))]")]
        for row in section.xpath(f".//table[@data-table='{name}']/tbody/tr")
    ]


def figures(section: Any) -> dict[str, str]:
    return {element.get("data-figure"): element.text_content().strip() for element in section.xpath(".//*[@data-figure]")}


def test_the_page_holds_the_figures_of_the_views(page: Any, database: str) -> None:
    parsed = page("--day", DAY)
    assert [section.get("data-line") for section in parsed.xpath("//section[@data-line]")] == [DALIAN, NANJING]
    where = f"line = '{NANJING}' AND production_day = '{DAY}'"
    (section,) = parsed.xpath(f"//section[@data-line='{NANJING}']")
    (d,), (y,) = view(database, "daily_throughput", where), view(database, "daily_yield", where)
    p = present
    assert figures(section) == {
        "good": p.count(d["good"]), "target": f"of {p.count(d['target'])} ({p.percent(d['attainment'])})",
        "verdict": f"▼ target missed, {d['gap']:+,}", "output_yield": p.percent(y["output_yield"]),
        "rolled_throughput_yield": p.percent(y["rolled_throughput_yield"]), "scrap": p.count(d["scrap"]),
        "energy": f"{d['energy_mwh']:.1f} MWh", "run_rate": f"{d['run_rate_gwh']:.3f} GWh", "completeness": p.percent(d["completeness"]),
    }  # fmt: skip
    hours = view(database, "hourly_throughput", where, "hour_of_day")
    assert table(section, "hours") == [
        [
            p.clock(h["hour_starts_at"], "Asia/Shanghai"),
            p.count(h["good"]),
            p.whole(h["target"]),
            p.count(h["scrap"]),
            p.whole(h["pace_per_h"]),
        ]
        for h in hours
    ]
    assert table(section, "hours")[0][0] == "08:00"
    shifts = view(database, "shift_throughput", where, "shift_of_day")
    assert table(section, "shifts") == [
        [s["shift"], {"day": "08:00–20:00", "night": "20:00–08:00"}[s["shift"]], p.count(s["good"]), p.whole(s["target"]),
         p.percent(s["attainment"]), p.signed(s["gap"]), p.count(s["scrap"]), p.whole(s["pace_per_h"])] for s in shifts
    ]  # fmt: skip
    stations = view(database, "station_yield", where, "station_seq")
    assert table(section, "stations") == [
        [s["station"], s["station_name"], p.percent(s["first_pass_yield"]), p.count(s["inspected"]), p.count(s["rework"]),
         p.count(s["scrap"]), p.figure(s["cycle_p50_s"])] for s in stations
    ]  # fmt: skip
    defects = view(database, "defect_pareto", where, "rank")
    assert table(section, "defects") == [
        [f["station"], f["defect"], f["defect_name"], p.count(f["count"]), p.percent(f["share"]), p.percent(f["cumulative_share"])]
        for f in defects
    ]  # fmt: skip
    lacking = view(database, "completeness", f"{where} AND missing + quarantined > 0", "missing + quarantined DESC, station, machine")
    assert table(section, "machines") == [
        [f"{m['station']}/{m['machine']}", p.count(m["received"]), p.count(m["missing"]), p.count(m["quarantined"]),
         p.missing(m["missing_ranges"])]
        for m in lacking
    ]  # fmt: skip
    assert [row[0] for row in table(section, "machines")] == ["wnd/01", "grd/02", "grd/03"]
    changes = view(database, "restatements", where, "version")
    assert len(changes) == 1
    assert [row[0] for row in table(section, "restatements")] == ["2"]
    assert [row[2:] for row in table(section, "restatements")] == [["31 → 33", "9 → 8"]]
    assert table(section, "alerts") == [["yield low", "11-22 10:00", "30 min", EVIL, "good again"]]
    assert [row[1:3] for row in table(parsed, "lines")] == [["5", "100,000"], ["33", "50,000"]]


def test_the_plots_are_drawn_to_the_figures(page: Any, database: str) -> None:
    section = page("--day", DAY, "--line", "32140-1").xpath("//section[@data-line]")[0]
    hours = view(database, "hourly_throughput", f"line = '{NANJING}' AND production_day = '{DAY}'", "hour_of_day")
    heights = [float(bar.get("height")) for bar in section.xpath(".//div[@class='plot']//rect")]
    assert len(heights) == 24
    low = 180
    (aim,) = {float(line.get("y1")) for line in section.xpath(".//div[@class='plot']//line[@class='aim']")}
    for height, hour in zip(heights, hours, strict=True):
        assert height == pytest.approx((low - aim) * hour["good"] / hour["target"], abs=0.15)
    defects = view(database, "defect_pareto", f"line = '{NANJING}' AND production_day = '{DAY}'", "rank")
    widths = [float(bar.get("width").rstrip("%")) for bar in section.xpath(".//table[@data-table='defects']//rect")]
    assert widths == pytest.approx([100 * d["count"] / defects[0]["count"] for d in defects], abs=0.01)
    stations = view(database, "station_yield", f"line = '{NANJING}' AND production_day = '{DAY}'", "station_seq")
    missed = [1 - s["first_pass_yield"] if s["inspected"] else 0 for s in stations]
    widths = [float(bar.get("width").rstrip("%")) for bar in section.xpath(".//table[@data-table='stations']//rect")]
    assert widths == pytest.approx([100 * part / max(missed) for part in missed], abs=0.01)


def test_nothing_on_the_page_is_more_than_text_and_nothing_comes_from_elsewhere(page: Any, tmp_path: Path) -> None:
    parsed = page("--day", DAY)
    assert parsed.xpath("//script | //img | //iframe | //link | //object | //embed | //form | //*[@*[starts-with(name(), 'on')]]") == []
    assert [a for a in parsed.xpath("//@href | //@src") if not a.startswith("#")] == []
    for anchor in parsed.xpath("//@href"):
        assert parsed.xpath(f"//*[@id='{anchor[1:]}']")
    (policy,) = parsed.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    text = (tmp_path / "day.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert EVIL in parsed.xpath(f"string(//section[@data-line='{NANJING}']/h2)")
    assert parsed.text_content().count(EVIL) >= 4, "names of line, station and defect, the reason of an alert"
    assert len(text) < 200_000


def test_the_page_of_a_day_without_events_or_without_target(page: Any, database: str) -> None:
    section = page("--day", EMPTY, "--line", NANJING).xpath("//section[@data-line]")[0]
    assert figures(section) | {"target": ""} == {
        "good": "0", "target": "", "verdict": "▼ target missed, -50,000", "output_yield": "–", "rolled_throughput_yield": "–", "scrap": "0",
        "energy": "0.0 MWh", "run_rate": "0.000 GWh", "completeness": "–",
    }  # fmt: skip
    said = " ".join(section.text_content().split())
    for part in ("No machine of the line has reported anything on this day.", "No station has reported a cell.", "No defect was reported."):
        assert part in said
    rows(
        database,
        "UPDATE mes.target SET cells_per_day = 0 WHERE line_id = (SELECT line_id FROM mes.line WHERE path = %s) RETURNING 1",
        NANJING,
    )
    try:
        section = page("--day", DAY, "--line", NANJING).xpath("//section[@data-line]")[0]
    finally:
        rows(
            database,
            "UPDATE mes.target SET cells_per_day = 50000 WHERE line_id = (SELECT line_id FROM mes.line WHERE path = %s) RETURNING 1",
            NANJING,
        )
    assert figures(section)["verdict"] == "○ no target"
    assert figures(section)["target"] == "nothing was planned"


def test_without_a_day_it_is_the_last_that_is_over(page: Any, database: str) -> None:
    (last,) = rows(database, "SELECT max(production_day) FROM report.daily_throughput WHERE is_over AND line = %s", NANJING)
    assert f"production day {last[0]}" in page("--line", NANJING).text_content()
    assert os.environ["MES_DATABASE_URL"] == database
