"""Reports as tables for the terminal; where it is narrow, what matters least is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mes.present import clock, count, escaped, figure, missing, percent, signed, whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: what stands in it for a row; `drop` is the turn in which it is left out, 0 for never."""

    head: str
    cell: Callable[[Row], str]
    left: bool = False
    drop: int = 0


def table(rows: Sequence[Row], columns: Sequence[Column], console: Console) -> Table:
    """As many of the columns as the console is wide."""
    turn = 0
    while True:
        made = _table(rows, [column for column in columns if not 0 < column.drop <= turn])
        is_narrow = console.measure(made, options=console.options.update(max_width=1000)).maximum > console.width
        if not is_narrow or turn == max(column.drop for column in columns):
            return made
        turn += 1


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.head, justify="left" if column.left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(escaped(column.cell(row))) for column in columns))
    return made


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else str(row[name])


def _of(write: Callable[[Any], str], name: str) -> Callable[[Row], str]:
    return lambda row: write(row[name])


def _rate(row: Row) -> str:
    rate = row["run_rate_gwh"]
    return "–" if rate is None else f"{rate:.3f} ({row['run_rate_days_per_year']:.1f} d)"


_LINE = Column("line", _text("line"), left=True)
_DAY = Column("production\nday", _text("production_day"), left=True)

DAILY: Final = (
    _LINE,
    Column("production\nday", lambda row: f"{row['production_day']}{'' if row['is_over'] else ' (open)'}", left=True),
    Column("good", _of(count, "good")),
    Column("target", _of(count, "target")),
    Column("attainment", _of(percent, "attainment")),
    Column("gap", _of(signed, "gap"), drop=2),
    Column("scrap", _of(count, "scrap"), drop=3),
    Column("output\nyield", _of(percent, "output_yield")),
    Column("rolled\nthroughput\nyield", _of(percent, "rolled_throughput_yield"), drop=4),
    Column("run rate\nGWh a year", _rate, drop=1),
)

YIELD: Final = (
    _LINE,
    _DAY,
    Column("station", _text("station"), left=True),
    Column("", _text("station_name"), left=True, drop=1),
    Column("inspected", _of(count, "inspected")),
    Column("first pass\nyield", _of(percent, "first_pass_yield")),
    Column("good", _of(count, "good"), drop=4),
    Column("rework", _of(count, "rework")),
    Column("scrap", _of(count, "scrap")),
    Column("fall-off", _of(percent, "fall_off_ratio"), drop=3),
    Column("final\nyield", _of(percent, "final_yield"), drop=2),
    Column("cycle s\nmedian", _of(figure, "cycle_p50_s"), drop=5),
    Column("95 %", _of(figure, "cycle_p95_s"), drop=5),
)

PARETO: Final = (
    _LINE,
    _DAY,
    Column("rank", _of(count, "rank")),
    Column("station", _text("station"), left=True),
    Column("defect", _text("defect"), left=True),
    Column("", _text("defect_name"), left=True, drop=2),
    Column("count", _of(count, "count")),
    Column("share", _of(percent, "share")),
    Column("so far", _of(percent, "cumulative_share"), drop=1),
)

COMPLETENESS: Final = (
    _LINE,
    _DAY,
    Column("machine", lambda row: f"{row['station']}/{row['machine']}", left=True),
    Column("expected", _of(count, "expected"), drop=3),
    Column("received", _of(count, "received")),
    Column("missing", _of(count, "missing")),
    Column("quarantined", _of(count, "quarantined")),
    Column("late", _of(count, "late"), drop=2),
    Column("duplicates", _of(count, "duplicates"), drop=2),
    Column("complete", _of(percent, "completeness")),
    Column("which", lambda row: missing(row["missing_ranges"]), left=True, drop=1),
)

UNIT: Final = (
    Column("at", lambda row: f"{row['at']:%Y-%m-%d %H:%M:%S}Z", left=True),
    Column("line", _text("line"), left=True, drop=1),
    Column("station", _text("station"), left=True),
    Column("machine", _text("machine"), left=True),
    Column("attempt", _text("attempt")),
    Column("result", lambda row: row["result"] + (" (taken back)" if row["unscrapped_at"] else ""), left=True),
    Column("defect", _text("defect"), left=True),
    Column("readings", lambda row: ", ".join(f"{name} {value:.6g}" for name, value in (row["readings"] or {}).items()), left=True),
)


def shift(zones: Mapping[str, str]) -> tuple[Column, ...]:
    """The columns of shifts, by the clocks of the lines' sites."""
    return (
        _LINE,
        _DAY,
        Column("shift", _text("shift"), left=True),
        Column("from", lambda row: clock(row["starts_at"], zones[row["line"]]), drop=2),
        Column("to", lambda row: clock(row["ends_at"], zones[row["line"]]), drop=2),
        Column("good", _of(count, "good")),
        Column("target", _of(whole, "target")),
        Column("attainment", _of(percent, "attainment")),
        Column("gap", _of(signed, "gap"), drop=3),
        Column("scrap", _of(count, "scrap"), drop=4),
        Column("good\nan hour", _of(whole, "pace_per_h"), drop=1),
    )
