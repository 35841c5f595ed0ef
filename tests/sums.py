"""Sums of a plant that has worked for a month, in figures as large as real ones, without the events that they would come from.

Only the finest sums are made up. Hours, days and shifts are summed by the rollup itself, which is given a mark in each: the
bucket of the mark has no events, and no sums.
"""

from __future__ import annotations

import datetime as dt

import psycopg

from tests.lines import step

# As many cells in each stretch of each line as its target asks for, more or less. `share`: of the cells, by a hash of line and time.
_STRETCHES = """
CREATE TEMPORARY TABLE stretch AS
SELECT line_id, grain, starts_at, cells_per_day * seconds / 86400 * (1.12 - 0.12 * share ^ 2 - 0.12 * of_day) AS cells, share
FROM (
    SELECT l.line_id, g.grain, t AS starts_at, 300.0 * (CASE g.grain WHEN 'hour' THEN 12 ELSE 1 END) AS seconds,
        (SELECT cells_per_day FROM mes.target x WHERE x.line_id = l.line_id ORDER BY from_day DESC LIMIT 1) AS cells_per_day,
        abs(hashint8extended(extract(epoch FROM t)::bigint + 7 * l.line_id, 1) %% 1000) / 1000.0 AS share,
        abs(hashint8extended(floor(extract(epoch FROM t - %(today)s) / 86400)::bigint * 11 + l.line_id, 2) %% 1000) / 1000.0 AS of_day
    FROM mes.line l CROSS JOIN (VALUES ('hour'::kpi.grain, interval '1 hour'), ('bucket', '5 minutes')) AS g (grain, step)
    CROSS JOIN LATERAL generate_series(%(today)s - interval '30 days', %(now)s, g.step) AS t
    WHERE CASE g.grain WHEN 'hour' THEN t < %(today)s AND extract(hour FROM t - %(today)s + interval '40 days') < 23
        ELSE extract(minute FROM t) > 0 AND (t >= %(today)s OR extract(hour FROM t - %(today)s + interval '40 days') = 23) END
) AS s;

CREATE TEMPORARY TABLE visit AS
SELECT x.*, s.station_id, s.n,
    round(x.cells * (1 - 0.0004 * s.n))::bigint AS good, floor(x.cells * 0.0008 * (1 + s.n %% 3) + x.share)::bigint AS scrap,
    floor(x.cells * 0.001 * (s.n %% 2) + x.share)::bigint AS rework,
    (127 + floor(log(2, s.cycle_s::numeric))) * 32 + floor((s.cycle_s / 2 ^ floor(log(2, s.cycle_s::numeric)) - 1) * 32) AS bin
FROM stretch x JOIN (SELECT *, row_number() OVER (PARTITION BY line_id ORDER BY seq) AS n FROM mes.station) AS s USING (line_id);

INSERT INTO kpi.station_sum
SELECT line_id, grain, starts_at, station_id, good, rework, scrap, good + scrap, good - rework, good, 0,
    ARRAY[bin - 1, bin, bin + 1]::smallint[],
    ARRAY[(good + rework + scrap) / 4, (good + rework + scrap + 1) / 2, (good + rework + scrap) / 4 + 1],
    least(%(now)s, starts_at + CASE grain WHEN 'hour' THEN interval '59 minutes' ELSE '4 minutes 59 seconds' END)
FROM visit;

INSERT INTO kpi.defect_sum
SELECT v.line_id, v.grain, v.starts_at, f.defect_id, greatest(1, round((v.rework + v.scrap) / (1.0 + f.k))) AS n
FROM visit v JOIN (SELECT *, row_number() OVER (PARTITION BY station_id ORDER BY code) AS k FROM mes.defect) AS f USING (station_id)
WHERE v.rework + v.scrap > 0;

INSERT INTO kpi.reading_sum
SELECT v.line_id, v.grain, v.starts_at, c.station_id, c.slot, v.good, 0, c.at * v.good,
    (c.at ^ 2 + round(c.width / c.grid_step / 10) ^ 2) * v.good, c.nominal - 0.4 * c.width, c.nominal + 0.4 * c.width
FROM visit v JOIN (
    SELECT *, round((nominal - grid_origin) / grid_step) AS at, abs(coalesce(usl, lsl) - nominal) AS width FROM mes.characteristic
) AS c USING (station_id)
WHERE c.grid_step IS NOT NULL AND v.good > 0 AND v.starts_at >= %(today)s - interval '1 day';

INSERT INTO kpi.machine_sum
SELECT v.line_id, v.grain, v.starts_at, array_agg(m.machine_id ORDER BY m.machine_id), array_agg(1), array_agg(v.good / m.machines),
    array_agg(0), array_agg(0), array_agg(1), array_agg(1)
FROM visit v JOIN (SELECT *, count(*) OVER (PARTITION BY station_id) AS machines FROM mes.machine) AS m USING (station_id)
WHERE v.starts_at >= %(today)s - interval '1 day'
GROUP BY v.line_id, v.grain, v.starts_at;

INSERT INTO mes.dirty_bucket (line_id, bucket)
SELECT line_id, t FROM mes.line, generate_series(%(today)s - interval '1 hour', %(now)s, interval '1 hour') AS t
UNION ALL
SELECT line_id, %(today)s - n * interval '1 day' - interval '1 hour' FROM mes.line, generate_series(1, 29) AS n
"""


def month(database: str, today: dt.datetime, now: dt.datetime) -> None:
    """Thirty production days of every line, and the one that began at `today`, a full hour, up to `now`."""
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SET timezone = 'UTC'")
        for statement in _STRETCHES.split(";\n"):
            connection.execute(statement.encode(), {"today": today, "now": now})
    step(database)
