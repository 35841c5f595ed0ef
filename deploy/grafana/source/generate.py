"""Write the dashboards' JSON: `python deploy/grafana/source/generate.py [FOLDER]`; a test checks that what is committed is current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from line_day import line_day
from plant_overview import plant_overview
from station_quality import station_quality

DASHBOARDS = {"plant-overview": plant_overview, "line-day": line_day, "station-quality": station_quality}


def generate(folder: Path) -> None:
    """One file a dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in DASHBOARDS.items():
        text = json.dumps(make().build(), cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "dashboards")
