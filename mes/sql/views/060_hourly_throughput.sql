-- Each hour is looked up by the key of its sums, so that one day stays quick beside years of them.
CREATE VIEW report.hourly_throughput AS
SELECT
    l.path AS line,
    d.production_day,
    t.starts_at AS hour_starts_at,
    h.hour AS hour_of_day,
    b.good,
    b.scrap,
    d.target * t.scheduled_s / nullif(d.scheduled_s, 0) AS target,
    b.good * 3600 / nullif(t.elapsed_s, 0) AS pace_per_h
FROM kpi.day d
JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL generate_series(0, ceil(extract(epoch FROM d.ends_at - d.starts_at) / 3600)::integer - 1) AS h (hour)
CROSS JOIN LATERAL (
    SELECT starts_at, kpi.seconds(d.scheduled * tstzmultirange(tstzrange(starts_at, ends_at))) AS scheduled_s,
        kpi.seconds(d.scheduled * tstzmultirange(tstzrange(starts_at, greatest(starts_at, least(ends_at, now()))))) AS elapsed_s
    FROM (
        SELECT d.starts_at + h.hour * interval '1 hour' AS starts_at,
            least(d.starts_at + (h.hour + 1) * interval '1 hour', d.ends_at) AS ends_at
    ) AS o
) AS t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.passed) FILTER (WHERE s.is_count_point), 0)::bigint AS good, coalesce(sum(x.scrap), 0)::bigint AS scrap
    FROM kpi.station_sum x JOIN mes.station s USING (station_id)
    WHERE x.line_id = d.line_id AND x.grain = 'hour' AND x.starts_at = t.starts_at
) b;

COMMENT ON VIEW report.hourly_throughput IS 'Good cells of each line and hour of its production day, counted in elapsed hours from the day''s start.';
COMMENT ON COLUMN report.hourly_throughput.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.hourly_throughput.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.hourly_throughput.hour_starts_at IS 'begin of the hour';
COMMENT ON COLUMN report.hourly_throughput.hour_of_day IS 'elapsed hours since the production day began: 0 to 22, 23 or 24';
COMMENT ON COLUMN report.hourly_throughput.good IS 'cells that passed the count point in that hour';
COMMENT ON COLUMN report.hourly_throughput.scrap IS 'cells scrapped at any station of the line in that hour';
COMMENT ON COLUMN report.hourly_throughput.target IS 'the day''s target in proportion to the scheduled time of the hour, cells';
COMMENT ON COLUMN report.hourly_throughput.pace_per_h IS 'good cells for each scheduled hour that has passed of this one; NULL where none has';
