-- Each hour is looked up by the key of its sums, so that one day stays quick beside years of them.
CREATE VIEW report.hourly_throughput AS
SELECT
    l.path AS line,
    d.production_day,
    d.starts_at + h.hour * interval '1 hour' AS hour_starts_at,
    h.hour AS hour_of_day,
    b.good,
    b.scrap,
    t.cells_per_day * least(3600, extract(epoch FROM d.ends_at - d.starts_at) - h.hour * 3600)::double precision
        / extract(epoch FROM d.ends_at - d.starts_at)::double precision AS target
FROM kpi.line_day d
JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL generate_series(0, ceil(extract(epoch FROM d.ends_at - d.starts_at) / 3600)::integer - 1) AS h (hour)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.pass) FILTER (WHERE s.is_count_point), 0)::bigint AS good, coalesce(sum(x.scrap), 0)::bigint AS scrap
    FROM kpi.station_hour x JOIN mes.station s USING (station_id)
    WHERE x.line_id = d.line_id AND x.hour = d.starts_at + h.hour * interval '1 hour'
) b
LEFT JOIN LATERAL (
    SELECT cells_per_day FROM mes.target
    WHERE target.line_id = d.line_id AND target.from_day <= d.production_day
    ORDER BY from_day DESC LIMIT 1
) t ON true;

COMMENT ON VIEW report.hourly_throughput IS 'Good cells of each line and hour of its production day, counted in elapsed hours from the day''s start.';
COMMENT ON COLUMN report.hourly_throughput.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.hourly_throughput.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.hourly_throughput.hour_starts_at IS 'begin of the hour';
COMMENT ON COLUMN report.hourly_throughput.hour_of_day IS 'elapsed hours since the production day began: 0 to 22, 23 or 24';
COMMENT ON COLUMN report.hourly_throughput.good IS 'cells that passed the count point in that hour';
COMMENT ON COLUMN report.hourly_throughput.scrap IS 'cells scrapped at any station of the line in that hour';
COMMENT ON COLUMN report.hourly_throughput.target IS 'the day''s target in proportion to the elapsed time of the hour, cells';
