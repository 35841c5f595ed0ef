-- Reads sums of a month of days, 25 hours and an hour of buckets of each line: as many rows in the tenth year as in the first month.
CREATE VIEW report.station_now AS
SELECT
    l.path AS line,
    m.production_day,
    b.station,
    b.station_seq,
    b.section,
    b.station_name,
    b.kind,
    b.machines,
    b.nominal_per_h,
    m.as_of,
    b.window_h,
    b.rate_per_h,
    b.utilisation,
    b.wip_before,
    b.inspected,
    b.first_pass_yield,
    b.last_event_at,
    b.state,
    coalesce(b.state IN ('running', 'stopped', 'idle') AND (b.state = 'stopped' OR b.utilisation > 0) AND b.rank = 1, false) AS is_bottleneck
FROM mes.line l
-- Now, or where a line that is behind has got to.
CROSS JOIN LATERAL (
    SELECT n.as_of, n.last_event_at, d.production_day, d.starts_at, coalesce(d.scheduled @> n.as_of, true) AS is_scheduled,
        date_bin('5 minutes', n.as_of - interval '1 hour', 'epoch'::timestamptz) AS hour_begin,
        date_bin('1 hour', n.as_of, coalesce(d.starts_at, n.starts_at, 'epoch'::timestamptz)) - interval '23 hours' AS day_begin
    FROM (
        SELECT e.starts_at, e.last_event_at, CASE
            WHEN e.last_event_at < now() - interval '10 minutes' AND e.changed_at > now() - interval '5 minutes' THEN e.last_event_at
            ELSE now()
        END AS as_of
        FROM (SELECT) AS one
        LEFT JOIN LATERAL (
            SELECT x.starts_at, x.last_event_at, r.changed_at
            FROM kpi.line_day x LEFT JOIN mes.day_report r USING (line_id, production_day)
            WHERE x.line_id = l.line_id AND x.starts_at <= now() AND x.last_event_at IS NOT NULL
            ORDER BY x.production_day DESC LIMIT 1
        ) AS e ON true
    ) AS n
    LEFT JOIN LATERAL (
        SELECT x.production_day, x.starts_at, x.scheduled FROM kpi.line_day x
        WHERE x.line_id = l.line_id AND x.production_day BETWEEN n.as_of::date - 2 AND n.as_of::date + 2
            AND x.starts_at <= n.as_of AND x.ends_at > n.as_of
    ) AS d ON true
) AS m
CROSS JOIN LATERAL (
    SELECT
        kpi.seconds(range_agg(x.scheduled) * tstzmultirange(tstzrange(m.hour_begin, m.as_of))) AS hour_s,
        kpi.seconds(range_agg(x.scheduled) * tstzmultirange(tstzrange(m.day_begin, m.as_of))) AS day_s
    FROM kpi.line_day x
    WHERE x.line_id = l.line_id AND x.production_day BETWEEN m.as_of::date - 3 AND m.as_of::date + 2
) AS t
CROSS JOIN LATERAL (
    WITH day AS MATERIALIZED (
        SELECT x.station_id, x.starts_at, x.passed, x.scrap, x.inspected, x.first_pass_good, x.last_event_at
        FROM kpi.station_sum x
        WHERE x.line_id = l.line_id AND x.grain = 'day' AND x.starts_at > m.as_of - interval '31 days' AND x.starts_at <= m.as_of
    ), route AS MATERIALIZED (
        SELECT s.*, lead(s.station_id) OVER (ORDER BY s.seq) AS next_id, lag(s.station_id) OVER (ORDER BY s.seq) IS NULL AS is_first
        FROM mes.station s WHERE s.line_id = l.line_id AND s.active
    ), waiting AS (
        -- What has come and not gone over a month. Less than none there never was, so whatever it once fell short by stood there before.
        SELECT station_id, min(level) FILTER (WHERE latest = 1) - least(0, min(level)) AS wip
        FROM (
            SELECT station_id, sum(sum(n)) OVER (PARTITION BY station_id ORDER BY starts_at) AS level,
                row_number() OVER (PARTITION BY station_id ORDER BY starts_at DESC) AS latest
            FROM (
                SELECT r.next_id AS station_id, d.starts_at, d.passed AS n FROM day d JOIN route r USING (station_id)
                UNION ALL
                SELECT d.station_id, d.starts_at, -d.passed - d.scrap FROM day d
                UNION ALL
                SELECT k.station_id, o.starts_at, 1
                FROM mes.unscrap u JOIN mes.machine k USING (machine_id)
                JOIN kpi.line_day o ON o.line_id = u.line_id AND o.starts_at <= u.scrapped_at AND o.ends_at > u.scrapped_at
                WHERE u.line_id = l.line_id AND o.starts_at > m.as_of - interval '31 days' AND o.starts_at <= m.as_of
            ) AS change
            GROUP BY station_id, starts_at
        ) AS levels
        GROUP BY station_id
    ), seen AS (
        SELECT station_id, max(last_event_at) AS last_event_at, max(inspected) FILTER (WHERE starts_at = m.starts_at) AS inspected,
            max(first_pass_good) FILTER (WHERE starts_at = m.starts_at) AS first_pass_good
        FROM day GROUP BY station_id
    ), made AS (
        SELECT station_id, grain, sum(pass) AS pass, sum(pass + rework + scrap) AS reports
        FROM kpi.station_sum
        WHERE line_id = l.line_id AND starts_at < m.as_of
            AND ((grain = 'bucket' AND starts_at >= m.hour_begin) OR (grain = 'hour' AND starts_at >= m.day_begin))
        GROUP BY station_id, grain
    ), station AS (
        SELECT r.*, k.machines, k.machines * r.cells_per_cycle * r.positions * 3600 / r.cycle_s AS nominal_per_h,
            r.kind = 'batch' AND 48 * r.cycle_s > 3600 * k.machines AS by_day,
            greatest(300, CASE r.kind WHEN 'discrete' THEN 10 * r.cycle_s / nullif(k.machines, 0) ELSE 3600 END) AS patience_s
        FROM route r
        CROSS JOIN LATERAL (SELECT count(*) AS machines FROM mes.machine WHERE station_id = r.station_id AND active) AS k
    ), figure AS (
        SELECT s.code AS station, s.seq AS station_seq, s.section, s.name AS station_name, s.kind, s.machines, s.nominal_per_h,
            CASE WHEN s.by_day THEN 24 ELSE 1 END AS window_h,
            coalesce(a.pass, 0) * 3600 / nullif(g.scheduled_s, 0) AS rate_per_h,
            coalesce(a.reports, 0) * 3600 / nullif(g.scheduled_s, 0) / nullif(s.nominal_per_h, 0) AS utilisation,
            CASE WHEN NOT s.is_first THEN coalesce(w.wip, 0)::bigint END AS wip_before,
            v.inspected, v.first_pass_good / nullif(v.inspected, 0)::double precision AS first_pass_yield, v.last_event_at,
            CASE
                WHEN NOT m.is_scheduled THEN 'unscheduled'
                WHEN v.last_event_at IS NULL THEN 'unknown'
                WHEN m.last_event_at < m.as_of - min(s.patience_s) OVER () * interval '1 s' THEN 'silent'
                WHEN v.last_event_at >= m.as_of - CASE WHEN s.by_day THEN 86400 ELSE s.patience_s END * interval '1 s' THEN 'running'
                WHEN s.kind = 'discrete' AND (s.is_first OR lag(v.last_event_at) OVER (ORDER BY s.seq) > v.last_event_at) THEN 'stopped'
                ELSE 'idle'
            END AS state
        FROM station s
        CROSS JOIN LATERAL (SELECT CASE WHEN s.by_day THEN t.day_s ELSE t.hour_s END AS scheduled_s) AS g
        LEFT JOIN made a ON a.station_id = s.station_id AND a.grain = CASE WHEN s.by_day THEN 'hour' ELSE 'bucket' END::kpi.grain
        LEFT JOIN waiting w ON w.station_id = s.station_id
        LEFT JOIN seen v ON v.station_id = s.station_id
    )
    SELECT f.*, row_number() OVER (
        ORDER BY f.state = 'stopped' DESC, CASE WHEN f.state = 'stopped' THEN f.last_event_at END, f.utilisation DESC NULLS LAST, f.station_seq
    ) AS rank
    FROM figure f
) AS b
WHERE l.active;

COMMENT ON VIEW report.station_now IS 'Each station of the route now: how fast it is, how near to what its machines can do, what waits before it, and which one holds the line back.';
COMMENT ON COLUMN report.station_now.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.station_now.production_day IS 'local date on which the production day of as_of began at the site; NULL where it has no row yet';
COMMENT ON COLUMN report.station_now.station IS 'code of the station';
COMMENT ON COLUMN report.station_now.station_seq IS 'position in the route';
COMMENT ON COLUMN report.station_now.section IS 'group of stations: winding, assembly, finishing';
COMMENT ON COLUMN report.station_now.station_name IS 'what the station does';
COMMENT ON COLUMN report.station_now.kind IS 'discrete, batch (cells leave a machine together) or dwell (each cell stays for a time)';
COMMENT ON COLUMN report.station_now.machines IS 'machines of the station in the seeds';
COMMENT ON COLUMN report.station_now.nominal_per_h IS 'cells an hour that these can work at most, by nominal cycle time and without breakdowns';
COMMENT ON COLUMN report.station_now.as_of IS 'the instant of these figures: now, or the latest event of a line that is behind (its events are old, and they are still coming)';
COMMENT ON COLUMN report.station_now.window_h IS 'hours before as_of over which rate and utilisation are taken: 1, or 24 at batch stations of which fewer than 48 batches leave in an hour';
COMMENT ON COLUMN report.station_now.rate_per_h IS 'passes for each scheduled hour of the window; NULL where none was scheduled';
COMMENT ON COLUMN report.station_now.utilisation IS 'all visits (rework and scrap too) for each scheduled hour of the window / nominal_per_h; above 1 where machines are quicker than planned';
COMMENT ON COLUMN report.station_now.wip_before IS 'cells that have left the station before and not yet this one (in its machines, too), over 31 days: at least so many, as what stood there before is known only once it has gone; NULL at the first station';
COMMENT ON COLUMN report.station_now.inspected IS 'cells at their first attempt in the production day';
COMMENT ON COLUMN report.station_now.first_pass_yield IS 'of these, passed; NULL where none was inspected';
COMMENT ON COLUMN report.station_now.last_event_at IS 'time of the latest event of the station in 31 days';
COMMENT ON COLUMN report.station_now.state IS 'by its events: running; stopped (discrete: nothing has left it for 5 minutes or 10 cycles, and cells came to it since); idle (nothing left it, and nothing came); silent (nothing comes from the whole line); unscheduled; unknown (no event in 31 days)';
COMMENT ON COLUMN report.station_now.is_bottleneck IS 'whether it holds the line back: the station that has been stopped longest, or, if none is, the one with the highest utilisation';
