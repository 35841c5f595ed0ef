"""How figures are written for people: a ratio below one never reads 100 %, an undefined one is a dash."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]


def percent(ratio: float | None) -> str:
    """A ratio in percent with two decimals, rounded down: 0.99999 is 99.99 %, only 1 is 100.00 %."""
    if ratio is None:
        return "–"
    # a ratio holds some fifteen digits: 0.29 is 29.00 %, though 0.29 * 10000 is a little less in binary
    hundredths = math.floor(float(f"{ratio * 1e4:.11g}"))
    return f"{(min(hundredths, 9999) if ratio < 1 else hundredths) / 100:.2f} %"


def count(n: int | None) -> str:
    """An integer with thousands separated."""
    return "–" if n is None else f"{n:,}"


def duration(seconds: float) -> str:
    """A stretch of time in the two units that matter, rounded down: 45 s, 7 min, 2 h 05 min, 3 d 04 h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def escaped(text: str | bytes, most: int = 4000) -> str:
    """Text that came from outside as a terminal may show it: what does not print is escaped, what is too long is cut."""
    whole = len(text)
    shown = text[:most].decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text[:most]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if whole <= most else f"{shown}… ({count(whole)} in all)"


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


def daily_table(rows: Sequence[Row], console: Console) -> Table:
    """Throughput and yield of days as a table for the terminal; where it is narrow, what matters least is left out."""
    optional = ["run rate\nGWh a year", "gap", "scrap", "rolled\nthroughput\nyield"]
    while True:
        table = _table([_cells(row) for row in rows], optional)
        if not optional or console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width:
            return table
        optional.pop(0)


def visits(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Visits of a cell as cells of a table."""
    return [
        (
            f"{row['at']:%Y-%m-%d %H:%M:%S}Z", row["line"], row["station"], row["machine"], row["attempt"],
            row["result"] + (" (taken back)" if row["unscrapped_at"] else ""), row["defect"] or "",
            ", ".join(f"{name} {value:.6g}" for name, value in (row["readings"] or {}).items()),
        )
        for row in rows
    ]  # fmt: skip


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table on stdout: numbers to the right, whole cells where the output is no terminal."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in zip(head, rows[0], strict=True):
        table.add_column(name, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(count(value) if isinstance(value, int) else str(value) for value in row))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)


def _cells(row: Row) -> dict[str, str]:
    rate, gap = row["run_rate_gwh"], row["gap"]
    return {
        "line": row["line"],
        "production\nday": f"{row['production_day']}{'' if row['is_over'] else ' (open)'}",
        "good": count(row["good"]),
        "target": count(row["target"]),
        "attainment": percent(row["attainment"]),
        "gap": "–" if gap is None else f"{gap:+,}",
        "scrap": count(row["scrap"]),
        "output\nyield": percent(row["output_yield"]),
        "rolled\nthroughput\nyield": percent(row["rolled_throughput_yield"]),
        "run rate\nGWh a year": "–" if rate is None else f"{rate:.3f} ({row['run_rate_days_per_year']:.1f} d)",
    }


_ALWAYS = ("line", "production\nday", "good", "target", "attainment", "output\nyield")


def _table(rows: Sequence[dict[str, str]], optional: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = [name for name in rows[0] if name in _ALWAYS or name in optional]
    for name in names:
        table.add_column(name, justify="left" if name in _ALWAYS[:2] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table
