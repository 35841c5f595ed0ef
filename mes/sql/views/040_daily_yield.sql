CREATE VIEW report.daily_yield AS
SELECT
    l.path AS line,
    d.production_day,
    d.good,
    d.scrap - d.unscrapped AS scrap,
    d.good / nullif(d.good + d.scrap - d.unscrapped, 0)::double precision AS output_yield,
    -- a station of the route without inspected cells leaves the product undefined
    CASE WHEN r.stations > 0 AND y.silent = 0 THEN y.rolled END AS rolled_throughput_yield,
    y.first_pass_yield,
    y.silent AS stations_without_inspection
FROM kpi.line_day d
JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL (SELECT count(*) AS stations FROM mes.station s WHERE s.line_id = l.line_id AND s.active) AS r
CROSS JOIN LATERAL (
    SELECT
        r.stations - count(*) FILTER (WHERE x.inspected > 0) AS silent,
        kpi.product(x.first_pass_good / nullif(x.inspected, 0)::double precision ORDER BY s.seq) AS rolled,
        max(x.first_pass_good / nullif(x.inspected, 0)::double precision) FILTER (WHERE s.is_count_point) AS first_pass_yield
    FROM kpi.station_sum x
    JOIN mes.station s USING (station_id)
    WHERE x.line_id = l.line_id AND x.grain = 'day' AND x.starts_at = d.starts_at AND s.active
) AS y;


COMMENT ON VIEW report.daily_yield IS 'Yield of each line and production day.';
COMMENT ON COLUMN report.daily_yield.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.daily_yield.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.daily_yield.good IS 'cells that passed the count point in that day';
COMMENT ON COLUMN report.daily_yield.scrap IS 'reports of scrap at any station of the line in that day, less those that were ever taken back';
COMMENT ON COLUMN report.daily_yield.output_yield IS 'good / (good + scrap); NULL where neither is';
COMMENT ON COLUMN report.daily_yield.rolled_throughput_yield IS 'product of the first pass yields of the route''s stations; NULL while one of them has inspected nothing';
COMMENT ON COLUMN report.daily_yield.first_pass_yield IS 'first pass yield of the count point';
COMMENT ON COLUMN report.daily_yield.stations_without_inspection IS 'stations of the route that inspected nothing in that day';
