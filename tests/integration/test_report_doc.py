"""The queries of docs/report.md run, for who may read the schema `report` and nothing else, and say something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mes.states import StateEvent
from tests.databases import Databases
from tests.lines import held, look_at_days, step
from tests.pipeline import AT_MS, event

ROOT = Path(__file__).resolve().parents[2]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/report.md").read_text(encoding="utf-8"), re.DOTALL)
SOMETIMES = ("restatements", "quarantine", "alert ")


@pytest.fixture(scope="module")
def reader(new_database: Databases) -> Iterator[psycopg.Connection[Any]]:
    database = new_database()
    with held(database, "nanjing/cells/32140-1") as line:
        line.put(line.topic("wnd/01"), event(1, meas={"electrode_tension": 12.0}), event(2, result="scrap", defect="W01"), event(4))
        line.put(line.topic("grd/01"), event(1), event(3))
        line.put(line.topic("wnd/02", "state"), StateEvent(1, 1, AT_MS, "execute"))
    step(database)
    look_at_days(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader_of_the_doc")
        connection.execute(
            "GRANT USAGE ON SCHEMA report TO reader_of_the_doc; GRANT SELECT ON ALL TABLES IN SCHEMA report TO reader_of_the_doc"
        )
        connection.execute("SET ROLE reader_of_the_doc")
        yield connection


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: re.search(r"report\.\w+", query)[0])
def test_a_query_of_the_document_runs(reader: psycopg.Connection[Any], query: str) -> None:
    found = reader.execute(query.encode()).fetchall()
    assert found or any(f"report.{name}" in query for name in SOMETIMES), "no row"
