"""What people see in a terminal: the figures of a line before it runs, and while it does."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from simulators.describe import LineFigures


def description(figures: LineFigures) -> Group:
    """The route with what theory says of it."""
    table = Table("station", "name", box=None, pad_edge=False, header_style="bold")
    for name in ("machines", "places", "cycle s", "avail %", "capacity/day", "use %", "first pass %", "final %", "WIP", "buffer"):
        table.add_column(name, justify="right")
    for s in figures.stations:
        cells = (f"{s.machines:,}", f"{s.places:,}", f"{s.cycle_s:,.1f}", f"{100 * s.availability:.2f}", f"{s.capacity:,.0f}")
        shares = (f"{100 * s.utilisation:.1f}", f"{100 * s.first_pass_yield:.3f}", f"{100 * s.final_yield:.3f}")
        style = "bold" if s.station == figures.bottleneck else ""
        table.add_row(s.station, _short(s.name), *cells, *shares, f"{s.wip:,.0f}", f"{s.buffer_after:,}", style=style)
    f = figures
    lines = [
        f"{f.line}, product {f.product}: target {f.target:,} a day in {f.planned_h:g} planned hours, takt {f.takt_s:.3f} s",
        f"at most {f.most:,.0f} good cells a day ({f.most_unbroken:,.0f} if nothing broke down); without buffers {f.least:,.0f}",
        f"bottleneck {f.bottleneck}; rolled throughput yield {100 * f.rolled_throughput_yield:.2f} %, final {100 * f.final_yield:.2f} %",
        f"WIP {f.wip:,.0f} cells, {f.lead_time_h:.1f} h in work",
    ]
    return Group(table, *(Text(line) for line in lines))


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def running(figures: dict[str, Any]) -> Group:
    """A line while it runs: its clock, its goods against the target, and each station of the present production day."""
    target, good = figures["target"], figures["good_today"]
    aim = f" of {target:,} ({100 * good / target:.1f} %)" if target else ""
    done = "" if figures["fraction"] is None else f", {figures['fraction']:.1%} done"
    sent = "   ".join(f"{name} {figures[name]:,}" for name in ("generated", "published", "acked", "committed"))
    head = [
        f"{figures['line']}   {figures['clock']}   day {figures['day']}   speed {figures['speed']:,.0f} x{done}",
        f"good {good:,}{aim}   scrap {figures['scrap_today']:,}   WIP {figures['wip']:,}",
        f"{sent}   {figures['events_per_s']:,.0f} events/s",
    ]
    table = Table("station", box=None, pad_edge=False, header_style="bold")
    for name in ("in", "pass", "rework", "scrap", "first pass %", "WIP"):
        table.add_column(name, justify="right")
    for s in figures["stations"]:
        share = f"{100 * s['first_pass_good'] / s['inspected']:.2f}" if s["inspected"] else "-"
        table.add_row(s["station"], *(f"{s[key]:,}" for key in ("inspected", "pass", "rework", "scrap")), share, f"{s['wip']:,}")
    return Group(*(Text(line) for line in head), table)
