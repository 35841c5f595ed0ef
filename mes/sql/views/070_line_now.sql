CREATE VIEW report.line_now AS
SELECT
    l.path AS line,
    d.production_day,
    d.good,
    d.target,
    d.target * t.elapsed_s / nullif(d.scheduled_s, 0) AS target_so_far,
    d.scrap - d.unscrapped AS scrap,
    d.good * 3600 / nullif(t.elapsed_s, 0) AS pace_per_h,
    d.good + d.good / nullif(t.elapsed_s, 0) * (d.scheduled_s - t.elapsed_s) AS projected,
    greatest(0, d.target - d.good) * 3600 / nullif(d.scheduled_s - t.elapsed_s, 0) AS remaining_per_h,
    (d.scheduled_s - t.elapsed_s) / 3600 AS scheduled_h_left,
    w.wip,
    w.last_event_at,
    extract(epoch FROM now() - w.last_event_at)::double precision AS silent_s,
    d.events / nullif(d.events + d.missing + d.quarantined, 0)::double precision AS completeness
FROM mes.line l
LEFT JOIN LATERAL (
    SELECT * FROM kpi.day WHERE day.line_id = l.line_id AND day.starts_at <= now() AND day.ends_at > now()
    ORDER BY production_day DESC LIMIT 1
) AS d ON true
LEFT JOIN LATERAL (
    SELECT kpi.seconds(d.scheduled * tstzmultirange(tstzrange(d.starts_at, now()))) AS elapsed_s WHERE d.line_id IS NOT NULL
) AS t ON true
CROSS JOIN LATERAL (
    -- Less than none there never was: by what it fell short at most, so many stood there before the first event.
    SELECT (sum(c.n) - least(0, min(c.level)))::bigint AS wip, max(c.last_event_at) AS last_event_at
    FROM (
        SELECT b.n, sum(b.n) OVER (ORDER BY b.production_day) AS level, b.last_event_at
        FROM (
            SELECT x.production_day, x.started - x.good - (x.scrap - x.unscrapped) AS n, x.last_event_at
            FROM kpi.line_day x WHERE x.line_id = l.line_id AND x.starts_at <= now()
        ) AS b
    ) AS c
) AS w
WHERE l.active;

COMMENT ON VIEW report.line_now IS 'Each line in the production day that runs now: where it stands, where it will end at its pace, what it takes to reach the target. NULL figures where no event of the line was ever seen.';
COMMENT ON COLUMN report.line_now.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.line_now.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.line_now.good IS 'cells that passed the count point so far';
COMMENT ON COLUMN report.line_now.target IS 'cells that the day shall make';
COMMENT ON COLUMN report.line_now.target_so_far IS 'the part of the target that belongs to the scheduled time that has passed';
COMMENT ON COLUMN report.line_now.scrap IS 'reports of scrap so far, less those that were taken back';
COMMENT ON COLUMN report.line_now.pace_per_h IS 'good cells for each scheduled hour that has passed; NULL before the first';
COMMENT ON COLUMN report.line_now.projected IS 'good cells at the end of the day if the pace stays; NULL before the first scheduled second';
COMMENT ON COLUMN report.line_now.remaining_per_h IS 'good cells for each scheduled hour left that reach the target; NULL where no scheduled time is left';
COMMENT ON COLUMN report.line_now.scheduled_h_left IS 'scheduled hours until the day ends';
COMMENT ON COLUMN report.line_now.wip IS 'cells between first and last station: started, neither good nor scrapped, over all days that are stored; at least so many, as what stood there before is known only once it has gone';
COMMENT ON COLUMN report.line_now.last_event_at IS 'time of the latest event of the line';
COMMENT ON COLUMN report.line_now.silent_s IS 'seconds since then';
COMMENT ON COLUMN report.line_now.completeness IS 'events / (events + missing + quarantined) of the day so far; NULL where none is known of';
