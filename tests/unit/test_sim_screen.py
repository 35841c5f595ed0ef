"""The live table of a running line: what it says, and that it fits."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from simulators import screen

STATION: dict[str, Any] = {
    "station": "wnd", "inspected": 101_341, "first_pass_good": 100_945, "pass": 100_945, "rework": 0, "scrap": 396,
    "wip": 5, "machines": 11,
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "line": "nanjing/cells/32140-1", "simulated_until": "2026-11-20T15:59:59.000Z", "clock": "2026-11-20 23:59:59 CST",
    "day": "2026-11-20", "fraction": 0.98765, "speed_asked": 100_000.0, "speed": 86_400.0, "generated": 1_663_787, "published": 1_663_787,
    "acked": 1_663_787, "committed": 1_600_000, "good": 301_000, "good_today": 101_000, "scrap_today": 1_341, "target": 150_000,
    "target_so_far": 100_000, "wip": 355_123, "events_per_s": 61_234.5,
    "stations": [STATION, *({**STATION, "station": f"s{n:02}", "inspected": 0, "first_pass_good": 0} for n in range(20))],
}  # fmt: skip


def shown(width: int, height: int | None = None, **other: Any) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(screen.running({**FIGURES, **other}, ConsoleDimensions(width, height) if height else None))
    return console.export_text().rstrip().splitlines()


def test_it_says_where_the_line_is() -> None:
    rows = shown(100)
    assert rows[0] == "nanjing/cells/32140-1   2026-11-20 23:59:59 CST (15:59:59 UTC)   production day 2026-11-20"
    assert rows[1] == "speed 86,400 x (100,000 asked)   61,234 events/s   98.8% done"
    assert rows[2] == "good 101,000 of 100,000 so far (101.0 %), of 150,000 today   scrap 1,341   WIP 355,123"
    assert rows[3] == "generated 1,663,787   published 1,663,787   acked 1,663,787   committed 1,600,000"
    assert rows[4].split() == ["station", "in", "pass", "rework", "scrap", "first", "pass", "%", "WIP", "machines"]
    assert rows[5].split() == ["wnd", "101,341", "100,945", "0", "396", "99.61", "5", "11"]
    assert rows[6].split()[5] == "-"
    assert len(rows) == 5 + 21
    assert max(map(len, rows)) <= 100


def test_what_is_not_known_is_left_out() -> None:
    rows = shown(100, target=None, target_so_far=None, fraction=None, speed_asked=None)
    assert rows[1] == "speed 86,400 x (max asked)   61,234 events/s"
    assert rows[2] == "good 101,000   scrap 1,341   WIP 355,123"
    assert shown(100, target_so_far=0)[2] == "good 101,000 of 0 so far, of 150,000 today   scrap 1,341   WIP 355,123"


@pytest.mark.parametrize(
    ("width", "height"), [(100, 27), (100, 26), (100, 24), (80, 24), (80, 30), (80, 29), (69, 50), (60, 20), (200, 12)]
)
def test_it_fits_a_terminal(width: int, height: int) -> None:
    """One row is left to the cursor, and the header may take two rows where it is narrow."""
    rows = shown(width, height)
    assert len(rows) < height
    assert max(map(len, rows)) <= width
    assert any("wnd 100,945" in row for row in rows) == ((width, height) not in [(100, 27), (80, 30)])
