"""How figures are written for people: a ratio below one never reads 100 %, an undefined one is a dash."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

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
    """A header and a line a row; undefined ratios are empty, dates ISO text, lists and objects JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return out.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.date):
        return value.isoformat()
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value


def signed(n: float | None) -> str:
    """A difference as a whole number with its sign."""
    return "–" if n is None else f"{round(n):+,}"


def whole(value: float | None) -> str:
    """A number as a whole one."""
    return count(None if value is None else round(value))


def figure(value: float | None) -> str:
    """A measured number with three significant digits, or all that stand before the point."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clock(at: dt.datetime, zone: str, form: str = "%H:%M") -> str:
    """An instant as the clock at a site shows it."""
    return at.astimezone(ZoneInfo(zone)).strftime(form)


def missing(ranges: Sequence[Row] | None, most: int = 3) -> str:
    """Which sequence numbers are missing: boot 17: 3, 5-9; some of them where they are many."""
    if not ranges:
        return ""
    shown = [f"boot {r['boot']}: {r['first']}" + (f"-{r['last']}" if r["last"] != r["first"] else "") for r in ranges[:most]]
    return ", ".join(shown) + (f", {count(len(ranges) - most)} more" if len(ranges) > most else "")


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table on stdout: numbers to the right, whole cells where the output is no terminal."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in zip(head, rows[0], strict=True):
        table.add_column(name, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(count(value) if isinstance(value, int) else str(value)) for value in row))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)
