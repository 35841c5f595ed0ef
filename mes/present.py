"""How figures are written for people: a ratio below one never reads 100 %, an undefined one is a dash."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Row = Mapping[str, Any]


def percent(ratio: float | None) -> str:
    """A ratio in percent with two decimals, rounded down: 0.99999 is 99.99 %, only 1 is 100.00 %."""
    if ratio is None:
        return "–"
    # fifteen digits are what the ratio holds: 0.29 is 29.00 %, though 0.29 * 100 is a little less in binary
    return f"{math.floor(float(f'{ratio * 1e4:.11g}') if ratio < 0.9999 else ratio * 1e4) / 100:.2f} %"


def count(n: int | None) -> str:
    """An integer with thousands separated."""
    return "–" if n is None else f"{n:,}"


def as_json(rows: Sequence[Row]) -> str:
    """One JSON array; dates as ISO text, undefined ratios as null."""
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode()


def as_csv(rows: Sequence[Row]) -> str:
    """A header and a line a row; undefined ratios are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v.isoformat() if isinstance(v, dt.date) else v for k, v in row.items()})
    return out.getvalue()


def daily_table(rows: Sequence[Row]) -> Any:
    """Throughput and yield of days as a table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("line", "production day"):
        table.add_column(name, no_wrap=True)
    for name in ("good", "target", "attainment", "gap", "scrap", "output\nyield", "rolled\nthroughput\nyield", "run rate\nGWh a year"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        rate = row["run_rate_gwh"]
        table.add_row(
            row["line"],
            f"{row['production_day']}{'' if row['is_closed'] else ' (open)'}",
            count(row["good"]),
            count(row["target"]),
            percent(row["attainment"]),
            "–" if row["gap"] is None else f"{row['gap']:+,}",
            count(row["scrap"]),
            percent(row["output_yield"]),
            percent(row["rolled_throughput_yield"]),
            "–" if rate is None else f"{rate:.3f} ({row['run_rate_days_per_year']:.1f} d)",
        )
    return table
