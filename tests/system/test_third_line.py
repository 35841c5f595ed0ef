"""A plant is data: a site in another zone and its line are two files, and count like the others (law 10)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.plants import route, small_lines

SITE = """
[site]
code = "albany"
name = "A small cell plant"
zone = "America/New_York"
day_start = 06:00:00
source = "test"

[[site.area]]
code = "cells"
name = "Cells"

[[site.shift]]
name = "all day"
start = 06:00:00
end = 06:00:00
"""

LINE = """
[line]
site = "albany"
area = "cells"
code = "26650-9"
name = "pilot line"
product = "26650"
serial_prefix = "AL9"
source = "test"
"""

TARGET = """
[[target]]
line = "albany/cells/26650-9"
from = 2025-01-01
cells_per_day = 3000
gwh_per_year = 0.012
days_per_year = 312.5
source = "test"
"""


def test_a_third_line_is_two_files_and_a_target(tmp_path: Path) -> None:
    seeds = small_lines(tmp_path / "seeds", 200.0)
    (seeds / "sites/albany.toml").write_text(SITE)
    (seeds / "lines/albany.toml").write_text(LINE + route(120.0))
    with (seeds / "targets.toml").open("a") as targets:
        targets.write(TARGET)
    day = "2025-03-08"  # clocks go forward in the night: this production day has 23 hours in New York
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    done = subprocess.run(
        [sys.executable, "-m", "mes", "demo", "--once", "--seeds", str(seeds), "--day", day],
        env={**clean, "MES_HOME": str(tmp_path / "home")}, cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equals what was simulated: yes" in done.stdout
    assert "albany/cells/26650-9" in done.stdout
    ledger = json.loads((tmp_path / "home/once/ledger-albany-26650-9.json").read_text())
    assert len(ledger["days"][day]["hourly_good"]) == 23
    assert ledger["days"][day]["good"] > 2000
