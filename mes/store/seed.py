"""Write the plant of a seeds folder into the database: all of it or nothing, ids kept for codes that stand already."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from psycopg import sql

from mes.kpi.grid import Grid
from mes.plant import Line, Plant, Site
from mes.store.calendars import TURN, LineCalendar, line_calendars
from mes.store.connection import Connection, connect, translated
from mes.store.migrate import check

SUMS = ("station_sum", "defect_sum", "reading_sum", "machine_sum", "machine_day", "line_day", "line_shift")
"""The tables of the schema kpi."""


def seed(url: str, plant: Plant) -> bool:
    """Load `plant` in one transaction; False if it is what the database holds already.

    What is no longer there becomes inactive: facts still refer to it. Days whose calendar changes are marked, to be
    summed anew.
    """
    digest = hashlib.sha256(msgspec.json.encode(plant)).hexdigest()
    with connect(url, autocommit=False, application="mes seed") as connection, translated(url):
        check(connection)
        connection.execute("LOCK TABLE mes.site IN SHARE ROW EXCLUSIVE MODE")
        latest = connection.execute("SELECT digest FROM mes.plant_version ORDER BY version DESC LIMIT 1").fetchone()
        if latest and latest[0] == digest:
            return False
        connection.execute("INSERT INTO mes.plant_version (digest) VALUES (%s)", [digest])
        before = line_calendars(connection)
        sites = {}
        for site in plant.sites.values():
            sites[site.code] = _upsert(
                connection,
                "site",
                ("code",),
                {"code": site.code, "name": site.name, "zone": site.zone, "day_start": site.day_start, "source": site.source},
            )
        products = {
            p.code: _upsert(
                connection, "product", ("code",), {"code": p.code, "name": p.name, "energy_wh": p.energy_wh, "source": p.source}
            )
            for p in plant.products.values()
        }
        connection.execute("UPDATE mes.line SET active = false WHERE active")
        lines = {line.path: _line(connection, line, sites[line.site], products[line.product]) for line in plant.lines.values()}
        for site in plant.sites.values():
            _calendar(connection, site, sites[site.code], lines)
        _mark_changed(connection, before)
        connection.execute("DELETE FROM mes.target")
        for t in plant.targets:
            connection.execute(
                "INSERT INTO mes.target VALUES (%s, %s, %s, %s, %s, %s)",
                [lines[t.line], t.from_, t.cells_per_day, t.gwh_per_year, t.days_per_year, t.source],
            )
        connection.execute("DELETE FROM mes.site_capacity")
        for c in plant.capacities:
            connection.execute(
                "INSERT INTO mes.site_capacity VALUES (%s, %s, %s, %s, %s)", [sites[c.site], c.phase, c.from_, c.gwh_per_year, c.source]
            )
    return True


def _line(connection: Connection, line: Line, site_id: int, product_id: int) -> int:
    line_id = _upsert(
        connection,
        "line",
        ("path",),
        {
            "site_id": site_id,
            "area": line.area,
            "code": line.code,
            "path": line.path,
            "name": line.name,
            "product_id": product_id,
            "active": True,
        },
    )
    connection.execute("UPDATE mes.station SET active = false, is_count_point = false WHERE line_id = %s", [line_id])
    for station in line.station:
        station_id = _upsert(
            connection,
            "station",
            ("line_id", "code"),
            {
                "line_id": line_id,
                "code": station.code,
                "seq": station.seq,
                "name": station.name,
                "section": station.section,
                "kind": station.kind,
                "cycle_s": station.cycle_s,
                "cells_per_cycle": station.cells_per_cycle,
                "positions": station.positions,
                "is_count_point": station is line.station[-1],
                "active": True,
            },
        )
        connection.execute("UPDATE mes.machine SET active = false WHERE station_id = %s", [station_id])
        for code in station.machine_codes:
            _upsert(connection, "machine", ("station_id", "code"), {"station_id": station_id, "code": code, "active": True})
        for defect in station.defect:
            _upsert(connection, "defect", ("station_id", "code"), {"station_id": station_id, "code": defect.code, "name": defect.name})
        slots = {
            str(name): int(slot)
            for name, slot in connection.execute("SELECT name, slot FROM mes.characteristic WHERE station_id = %s", [station_id])
        }
        for c in station.characteristic:
            slot = slots.setdefault(c.name, len(slots))
            values = {
                "station_id": station_id,
                "slot": slot,
                "name": c.name,
                "unit": c.unit,
                "nominal": c.nominal,
                "lsl": c.lsl,
                "usl": c.usl,
            }
            _upsert(connection, "characteristic", ("station_id", "slot"), values, returning="slot")
            grid = Grid.of(c.nominal, c.sigma, c.distribution == "lognormal", c.lsl, c.usl)
            connection.execute(
                "UPDATE mes.characteristic SET grid_origin = %s, grid_step = %s WHERE station_id = %s AND slot = %s AND grid_step IS NULL",
                [grid.origin, grid.step, station_id, slot],
            )
    return line_id


def _calendar(connection: Connection, site: Site, site_id: int, lines: dict[str, int]) -> None:
    for table in ("shift", "holiday", "planned_stop"):
        connection.execute(sql.SQL("DELETE FROM {} WHERE site_id = %s").format(sql.Identifier("mes", table)), [site_id])
    for since, plan in site.plans:
        for position, shift in enumerate(plan):
            connection.execute(
                "INSERT INTO mes.shift (site_id, from_day, position, name, starts, ends) VALUES (%s, %s, %s, %s, %s, %s)",
                [site_id, since, position, shift.name, shift.start, shift.end],
            )
            for pause in shift.breaks:
                connection.execute(
                    "INSERT INTO mes.shift_break VALUES (%s, %s, %s, %s, %s)", [site_id, since, position, pause.start, pause.end]
                )
    for holiday in site.holiday:
        connection.execute("INSERT INTO mes.holiday VALUES (%s, %s, %s)", [site_id, holiday.day, holiday.name])
    for stop in site.planned_stop:
        connection.execute(
            "INSERT INTO mes.planned_stop (site_id, line_id, begins, ends, reason) VALUES (%s, %s, %s, %s, %s)",
            [site_id, lines[stop.line] if stop.line else None, *stop.span(site.tz), stop.reason],
        )


def _mark_changed(connection: Connection, before: dict[int, LineCalendar]) -> None:
    """Mark what has to be summed anew: the days whose shifts or planned time change, all of it where days begin elsewhere."""
    after = line_calendars(connection)
    for line_id, old in sorted(before.items()):
        new = after[line_id].calendar
        if new == old.calendar:
            continue
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [TURN, line_id])  # a rollup may be at it, by the old calendar
        if (new.zone, new.day_start) != (old.calendar.zone, old.calendar.day_start):
            summed = "SELECT DISTINCT starts_at FROM kpi.station_sum WHERE line_id = %s AND grain = 'bucket'"
            buckets = [row[0] for row in connection.execute(summed, [line_id])]
            for table in SUMS:
                connection.execute(sql.SQL("DELETE FROM {} WHERE line_id = %s").format(sql.Identifier("kpi", table)), [line_id])
        else:
            days = connection.execute("SELECT production_day, starts_at FROM kpi.line_day WHERE line_id = %s", [line_id]).fetchall()
            buckets = [
                begin
                for day, begin in days
                if (new.shifts(day), new.scheduled(day)) != (old.calendar.shifts(day), old.calendar.scheduled(day))
            ]
        connection.execute("INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT %s, unnest(%s::timestamptz[])", [line_id, buckets])
        connection.execute("SELECT pg_notify('mes_marks', %s)", [old.path])


def _upsert(connection: Connection, table: str, key: tuple[str, ...], values: dict[str, Any], returning: str = "") -> int:
    """Insert or update by natural key; the row's id. An update, not ON CONFLICT, so that no id is burnt each time."""
    name = sql.Identifier("mes", table)
    where = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(sql.Identifier(k), sql.Placeholder(k)) for k in key)
    back = sql.Identifier(returning or f"{table}_id")
    changes = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(k), sql.Placeholder(k)) for k in values)
    row = connection.execute(sql.SQL("UPDATE {} SET {} WHERE {} RETURNING {}").format(name, changes, where, back), values).fetchone()
    if row is None:
        columns = sql.SQL(", ").join(map(sql.Identifier, values))
        holes = sql.SQL(", ").join(map(sql.Placeholder, values))
        row = connection.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(name, columns, holes, back), values
        ).fetchone()
    assert row is not None
    return int(row[0])
