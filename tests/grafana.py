"""What Grafana does with a panel's statement before a database sees it: variables, then macros of its PostgreSQL datasource.

Rules as of Grafana's PostgreSQL datasource: a macro is `$__name(arguments)`, its arguments end at the first `)`, and
`$__timeGroup` is `time_bucket` where the datasource is told of TimescaleDB, else arithmetic on the epoch.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

DASHBOARDS = Path(__file__).resolve().parents[1] / "deploy/grafana/dashboards"

_VARIABLE = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\$(?!__)(\w+)|\[\[(\w+)\]\]")
_MACRO = re.compile(r"\$(__\w+)\(([^)]*)\)")
_INTERVALS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard, with one statement."""

    dashboard: str
    title: str
    kind: str
    form: str
    sql: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.title}"


def panels() -> list[Panel]:
    """Every panel of every dashboard that is committed."""
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                found.append(Panel(path.stem, panel["title"], panel["type"], target["format"], target["rawSql"]))
    return found


def variables(dashboard: str) -> list[tuple[str, str]]:
    """Name and query of each variable of a dashboard, in order: later ones may depend on earlier ones."""
    found = json.loads((DASHBOARDS / f"{dashboard}.json").read_text(encoding="utf-8")).get("templating", {}).get("list", [])
    return [(variable["name"], variable["query"]) for variable in found]


def expand(sql: str, chosen: Mapping[str, str], begin: dt.datetime, end: dt.datetime, *, timescaledb: bool = False) -> str:
    """The statement that is sent to the database; ValueError names a variable or macro that Grafana would not know."""

    def variable(found: re.Match[str]) -> str:
        braced, form, plain, bracketed = found.groups()
        name = braced or plain or bracketed
        if name not in chosen:
            raise ValueError(f"variable {name!r} is not defined: {sql}")
        value = chosen[name]
        return "'" + value.replace("'", "''") + "'" if form == "sqlstring" else value

    def macro(found: re.Match[str]) -> str:
        name, arguments = found[1], [part.strip() for part in found[2].split(",")]
        since, until = (f"'{instant.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}Z'" for instant in (begin, end))
        match name:
            case "__timeFilter":
                return f"{arguments[0]} BETWEEN {since} AND {until}"
            case "__timeFrom":
                return since
            case "__timeTo":
                return until
            case "__timeGroup":
                seconds = int(arguments[1].strip("'")[:-1]) * _INTERVALS[arguments[1].strip("'")[-1]]
                if timescaledb:
                    return f"time_bucket('{seconds}.000s',{arguments[0]})"
                return f"floor(extract(epoch from {arguments[0]})/{seconds})*{seconds}"
        raise ValueError(f"macro ${name} is not known: {sql}")

    return _MACRO.sub(macro, _VARIABLE.sub(variable, sql))


def choose(
    connection: psycopg.Connection[Any], dashboard: str, given: Mapping[str, str], begin: dt.datetime, end: dt.datetime
) -> dict[str, str]:
    """A value for each variable as Grafana chooses it: the given one, else the first of its query (`__value` where there is one).

    Of days it is the one before the newest: that one may have begun a minute ago.
    """
    chosen: dict[str, str] = {}
    for name, query in variables(dashboard):
        cursor = connection.execute(expand(query, chosen, begin, end).encode())
        assert cursor.description
        column = next((n for n, c in enumerate(cursor.description) if c.name == "__value"), 0)
        values = [str(row[column]) for row in cursor.fetchall()]
        assert values, f"variable {name} of {dashboard} has no value"
        assert name not in given or given[name] in values, f"variable {name}: {given[name]} is not among {values}"
        chosen[name] = given.get(name, values[1] if name == "day" and len(values) > 1 else values[0])
    return chosen
