"""What people see in a terminal: the figures of a line before it runs, and while it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from simulators.describe import Bounds, LineFigures

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions

WIDTH: Final = 160
"""Columns of the widest table."""
_TABLE_WIDTH: Final = 70
_BELOW_THE_STATIONS: Final = 1  # the cursor's row


def described(figures: LineFigures | Bounds) -> Group:
    """A line with what theory says of it; the bottleneck has a mark."""
    return _abstract(figures) if isinstance(figures, Bounds) else _route(figures)


def _route(f: LineFigures) -> Group:
    table = _table("station", "name", "kind")
    table.columns[1].no_wrap = True
    for name in ("machines", "places", "cycle s", "avail %", "capacity/day", "unbroken", "needed", "use %"):
        table.add_column(name, justify="right")
    for name in ("first pass %", "final %", "WIP", "buffer"):
        table.add_column(name, justify="right")
    for s in f.stations:
        cells = (f"{s.machines:,}", f"{s.places:,}", f"{s.cycle_s:,.1f}", f"{100 * s.availability:.2f}")
        rates = (f"{s.capacity:,.0f}", f"{s.unbroken:,.0f}", f"{s.starts:,.0f}", f"{100 * s.utilisation:.1f}")
        shares = (f"{100 * s.first_pass_yield:.3f}", f"{100 * s.final_yield:.3f}")
        code = _marked(s.station, f.bottleneck)
        table.add_row(code, _short(s.name), s.kind, *cells, *rates, *shares, f"{s.wip:,.0f}", f"{s.buffer_after:,}")
    return _lines(
        table,
        f"{f.line}, product {f.product}: target {f.target:,} a day in {f.planned_h:g} planned hours, takt {f.takt_s:.3f} s",
        f"at most {f.most:,.0f} good cells a day ({f.most_unbroken:,.0f} if nothing broke down); without buffers {f.least:,.0f}",
        f"bottleneck {f.bottleneck}; rolled throughput yield {100 * f.rolled_throughput_yield:.2f} %, final {100 * f.final_yield:.2f} %",
        f"WIP {f.wip:,.0f} cells, {f.lead_time_h:.1f} h in work",
    )


def _abstract(f: Bounds) -> Group:
    table = _table("station", "service")
    for name in ("machines", "batch", "buffer", "mean", "avail %", "capacity", "first pass %", "final %"):
        table.add_column(name, justify="right")
    for s in f.stations:
        cells = (str(s.machines), str(s.batch), str(s.buffer), f"{s.mean:g}", f"{100 * s.availability:.2f}", f"{s.capacity:.6g}")
        code = _marked(s.station, f.bottleneck)
        table.add_row(code, s.service, *cells, f"{100 * s.first_pass_yield:.3f}", f"{100 * s.final_yield:.3f}")
    least = "" if f.least is None else f", at least {f.least:.6g} (no buffers)"
    return _lines(
        table,
        f"at most {f.most:.6g} good parts per time (infinite buffers){least}",
        f"bottleneck {f.bottleneck}; rolled throughput yield {100 * f.rolled_throughput_yield:.2f} %, final {100 * f.final_yield:.2f} %",
    )


def _table(*names: str) -> Table:
    return Table(*names, box=None, pad_edge=False, header_style="bold")


def _lines(*parts: Table | str) -> Group:
    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _marked(station: str, bottleneck: str) -> Text:
    return Text(f"{station} <", style="bold") if station == bottleneck else Text(station)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def running(figures: dict[str, Any], room: ConsoleDimensions | None = None) -> Group:
    """A line while it runs: its clocks, its goods against the target, and each station of the present production day. Where the table of
    the stations has no room, they are a paragraph."""
    f = figures
    asked = "max" if f["speed_asked"] is None else f"{f['speed_asked']:,g}"
    done = "" if f["fraction"] is None else f"   {f['fraction']:.1%} done"
    sent = "   ".join(f"{name} {f[name]:,}" for name in ("generated", "published", "acked", "committed"))
    head = [
        f"{f['line']}   {f['clock']} ({f['simulated_until'][11:19]} UTC)   production day {f['day']}",
        f"speed {f['speed']:,.0f} x ({asked} asked)   {f['events_per_s']:,.0f} events/s{done}",
        f"good {f['good_today']:,}{_against(f)}   scrap {f['scrap_today']:,}   WIP {f['wip']:,}",
        sent,
    ]
    needed = sum(1 + (len(line) - 1) // room.width for line in head) + 1 + len(f["stations"]) + _BELOW_THE_STATIONS if room else 0
    if room and (room.width < _TABLE_WIDTH or room.height < needed):
        return _lines(*head, "passed   " + "   ".join(f"{s['station']} {s['pass']:,}" for s in f["stations"]))
    table = _table("station")
    for name in ("in", "pass", "rework", "scrap", "first pass %", "WIP", "machines"):
        table.add_column(name, justify="right")
    for s in f["stations"]:
        share = f"{100 * s['first_pass_good'] / s['inspected']:.2f}" if s["inspected"] else "-"
        counts = (f"{s[key]:,}" for key in ("inspected", "pass", "rework", "scrap"))
        table.add_row(s["station"], *counts, share, f"{s['wip']:,}", f"{s['machines']:,}")
    return _lines(*head, table)


def _against(f: dict[str, Any]) -> str:
    if f["target"] is None:
        return ""
    so_far = f" ({100 * f['good_today'] / f['target_so_far']:.1f} %)" if f["target_so_far"] else ""
    return f" of {f['target_so_far']:,} so far{so_far}, of {f['target']:,} today"
