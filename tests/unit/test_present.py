"""Figures as people read them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mes import present, tables
from mes.markup import Safe, tag
from mes.plots import Column, bar, columns

ROW = {
    "line": "nanjing/cells/32140-1", "production_day": dt.date(2026, 11, 21), "product": "32140", "good": 51238, "target": 50000,
    "attainment": 1.02476, "gap": 1238, "scrap": 1703, "events": 1_000_000, "energy_mwh": 2459.4, "run_rate_gwh": 0.717,
    "run_rate_days_per_year": 291.666667, "is_over": True, "output_yield": 0.99999, "rolled_throughput_yield": None,
    "first_pass_yield": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, "–"), (0.0, "0.00 %"), (1.0, "100.00 %"), (0.29, "29.00 %"), (0.57, "57.00 %"),
        (0.99995, "99.99 %"), (0.9999999, "99.99 %"), (1.0385, "103.85 %"), (1.13, "113.00 %"),
    ],
)  # fmt: skip
def test_percent(ratio: float | None, text: str) -> None:
    assert present.percent(ratio) == text


@given(st.integers(1, 10**7).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_less_than_all_never_reads_100_percent(counts: tuple[int, int]) -> None:
    good, of = counts
    text = present.percent(good / of)
    assert text != "100.00 %"
    assert float(text[:-2]) <= 100 * good / of + 1e-9
    assert float(text[:-2]) > 100 * good / of - 0.010001


def test_table_leaves_out_what_matters_least_where_it_is_narrow() -> None:
    def shown(width: int) -> str:
        console = Console(width=width)
        with console.capture() as capture:
            console.print(tables.table([ROW], tables.DAILY, console))
        return capture.get()

    assert "0.717 (291.7 d)" in shown(140)
    narrow = shown(80)
    assert "0.717" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    for text in ("nanjing/cells/32140-1", "2026-11-21", "51,238", "50,000", "102.47 %", "99.99 %"):
        assert text in narrow


def test_json_and_csv_hold_every_column() -> None:
    assert json.loads(present.as_json([ROW])) == [{**ROW, "production_day": "2026-11-21"}]
    (row,) = csv.DictReader(io.StringIO(present.as_csv([ROW])))
    assert row["rolled_throughput_yield"] == ""
    assert row["good"] == "51238"
    assert set(row) == set(ROW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 00 min"), (171_900, "47 h 45 min"), (190_000, "2 d 04 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert present.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.70123, "0.701"),
        (7.0, "7"),
        (3.456, "3.46"),
        (99.96, "100"),
        (43_520.4, "43,520"),
        (260_096.0, "260,096"),
    ],
)
def test_a_measured_number(value: float | None, text: str) -> None:
    assert present.figure(value) == text


def test_differences_whole_numbers_clocks_and_gaps() -> None:
    assert [present.signed(n) for n in (None, 0, 1238, -1_041.4)] == ["–", "+0", "+1,238", "-1,041"]
    assert [present.whole(n) for n in (None, 2083.3333, 4166.7)] == ["–", "2,083", "4,167"]
    assert present.clock(dt.datetime(2026, 11, 25, 23, 30, tzinfo=dt.UTC), "Asia/Shanghai") == "07:30"
    gaps = [
        {"boot": 1, "first": 3, "last": 3},
        {"boot": 1, "first": 5, "last": 9},
        {"boot": 2, "first": 1, "last": 2},
        {"boot": 3, "first": 1, "last": 1},
    ]
    assert present.missing(gaps) == "boot 1: 3, boot 1: 5-9, boot 2: 1-2, 1 more"
    assert present.missing(None) == ""


def test_tables_show_what_came_from_outside_as_it_is() -> None:
    row = {"line": "l", "production_day": "d", "rank": 1, "station": "s", "defect": "[bold]x", "defect_name": "\x1b[31mred", "count": 1}
    console = Console(width=140)
    with console.capture() as capture:
        console.print(tables.table([row | {"share": 1.0, "cumulative_share": 1.0}], tables.PARETO, console))
    assert "[bold]x" in capture.get()
    assert "\\x1b[31mred" in capture.get()


# --- pages -------------------------------------------------------------------------------------------------------------


def test_what_stands_between_tags_is_escaped_once() -> None:
    made = tag("p", "a < b", tag("b", "c & d", class_="x", data_y='"', hidden=True, id=None), [1, None, ["e"]], 2.5)
    assert made == '<p>a &lt; b<b class="x" data-y="&quot;" hidden>c &amp; d</b>1e2.5</p>'
    assert isinstance(made, Safe)
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert tag("td", "<td>") == "<td>&lt;td&gt;</td>"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.none() | st.floats(0, 1e9)), max_size=30))
def test_columns_stay_on_their_plot_and_are_as_high_as_their_value(shown: list[tuple[int, float | None]]) -> None:
    drawn = columns([Column(f"{n}", value, target) for n, (value, target) in enumerate(shown)], "t")
    rects = [(float(y), float(height)) for y, height in re.findall(r'<rect [^>]*?y="([-\d.]+)" height="([-\d.]+)"', drawn)]
    assert len(rects) == len(shown)
    for y, height in rects:
        assert 11.9 <= y <= 180
        assert y + height == pytest.approx(180, abs=0.11)
    highest = max((value for value, _ in shown), default=0)
    for (value, _), (_, height) in zip(shown, rects, strict=True):
        top = max(h for _, h in rects)
        assert height == pytest.approx(top * value / highest if highest else 0, abs=0.15)
    assert drawn.count('class="aim"') == sum(bool(target) for _, target in shown)


def test_a_bar_is_a_part_of_the_longest() -> None:
    assert [re.findall(r'width="([\d.]+)%"', bar(part, of))[0] for part, of in ((1, 4), (None, 4), (0, 0), (9, 4))] == [
        "25.00",
        "0.00",
        "0.00",
        "100.00",
    ]
