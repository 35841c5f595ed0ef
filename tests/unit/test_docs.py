"""Documents that name what is not there, or leave out what is, fail."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TESTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


def test_tests_that_are_named_exist() -> None:
    named = re.findall(r"(test_\w+\.py)(?:::(\w+))?", ARCHITECTURE)
    assert len(named) > 10
    for file, test in named:
        assert file in TESTS, file
        assert not test or f"def {test}(" in TESTS[file], f"{file}::{test}"


def test_every_module_is_on_the_map() -> None:
    missing = [
        path.name
        for package in ("mes", "simulators")
        for path in sorted((ROOT / package).iterdir())
        if not path.name.startswith("__") and f"{path.stem}" not in re.sub(r"[^\w]", " ", ARCHITECTURE).split()
    ]
    assert missing == []


def test_documents_and_dashboards_name_views_that_exist_and_all_of_them() -> None:
    """Whatever is written about the schema `report`, or reads it, in words or in panels."""
    views = {
        name
        for path in (ROOT / "mes/sql/views").glob("*.sql")
        for name in re.findall(r"CREATE (?:VIEW|FUNCTION) report\.(\w+)", path.read_text(encoding="utf-8"))
    }
    documents = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "seeds/README.md", *(ROOT / "docs").rglob("*.md")]
    documents += [path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".md", ".json", ".py", ".sql", ".yaml", ".toml")]
    unknown = {
        f"{path.relative_to(ROOT)}: report.{name}"
        for path in documents
        for name in re.findall(r"\breport\.(\w+)", path.read_text(encoding="utf-8"))
        if name not in views and name != "md"
    }
    assert unknown == set()
    described = re.findall(r"`report\.(\w+)", (ROOT / "docs/report.md").read_text(encoding="utf-8"))
    assert views - set(described) == set()


def test_files_hold_no_registry_address_and_locks_hold_hashes() -> None:
    for path in ROOT.glob("requirements*.txt"):
        text = path.read_text()
        assert "http" not in text, path
        assert text.count("--hash=sha256:") > text.count("==") > 0, path
