"""docs/doctor.md names what the code can say, all of it and nothing else: monitoring filters by these names."""

from __future__ import annotations

import re
from pathlib import Path

from mes import metrics
from mes.doctor import certificates

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "mes/doctor").glob("*.py")))


def table(head: str) -> set[str]:
    """The names in the first column of the table whose head this is."""
    rows = DOC[DOC.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[0])}


def test_every_finding_is_described() -> None:
    said = set(re.findall(r'\b(?:Finding|_open|_validity|_not_named)\(\s*"([a-z_.]+)"', CODE))
    said |= set(re.findall(r'\bname(?:, \w+)* = "([a-z_.]+)"', CODE))
    said |= {f"tls.{kind}" for kind in {**certificates._FILES, **certificates._IN_URL}.values()}
    assert len(said) > 35
    assert said == table("| name | what is looked at |")


def test_names_of_checks_that_could_not_be_made_are_those_of_findings() -> None:
    keys = set(re.findall(r'^\s+"([a-z_.]+)": \w+,$', CODE, re.MULTILINE))
    assert len(keys) > 15
    assert keys - table("| name | what is looked at |") == set()


def test_every_metric_is_described() -> None:
    for registry, head in ((metrics.INGEST, "| ingest, by `line` | |"), (metrics.ROLLUP, "| rollup | |")):
        names = {
            f"{family.name}_total" if family.type == "counter" else family.name
            for family in registry.collect()
            if family.name.startswith("mes_") and family.name != "mes_build"
        }
        assert names == table(head)
