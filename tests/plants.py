"""Seeds for tests: the real sites, products and targets with lines that are small enough to run through quickly."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

SEEDS = Path(__file__).resolve().parent.parent / "seeds"

STATION = """
[[station]]
code = "{code}"
seq = {seq}
name = "{code}"
section = "assembly"
kind = "discrete"
cycle_s = {cycle}
machines = 4
buffer_after = 50
plan_oee = 0.9
mtbf_min = 60
mttr_min = 3
rework = {{ max = 1, share = 0.5, success = 0.8 }}
basis = "test"
defect = [ {{ code = "{code}1", name = "defect", ppm = 9000 }} ]

[[station.characteristic]]
name = "force"
unit = "N"
nominal = 10
lsl = 8
usl = 12
sigma = 0.4
distribution = "normal"
sampling = 1
sampling_basis = "100%"
basis = "test"
"""


def route(cycle_s: float) -> str:
    """Three stations with four machines each."""
    return "".join(STATION.format(code=code, seq=10 * n, cycle=cycle_s) for n, code in enumerate(("wnd", "asm", "pck"), 1))


def small_lines(folder: Path, cycle_s: float) -> Path:
    """The two plants with small lines; with a cycle of 100 s about 10,000 events a line and day."""
    shutil.copytree(SEEDS, folder)
    for path in (folder / "lines").glob("*.toml"):
        head = re.search(r"^\[line\]\n(?:.+\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert head is not None
        path.write_text(head[0] + route(cycle_s), encoding="utf-8")
    return folder
