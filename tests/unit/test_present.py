"""Figures as people read them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mes import present

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
            console.print(present.daily_table([ROW], console))
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
