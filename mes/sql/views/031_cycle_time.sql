CREATE VIEW report.cycle_time AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    kpi.bin_edge(b.bin) AS from_s,
    kpi.bin_edge(b.bin + 1) AS below_s,
    b.n AS count,
    b.n / sum(b.n) OVER (PARTITION BY d.line_id, d.production_day, s.station_id)::double precision AS share
FROM kpi.line_day d
JOIN kpi.station_sum x ON x.line_id = d.line_id AND x.grain = 'day' AND x.starts_at = d.starts_at
CROSS JOIN LATERAL unnest(x.cycle_bin, x.cycle_n) AS b (bin, n)
JOIN mes.station s ON s.station_id = x.station_id
JOIN mes.line l ON l.line_id = d.line_id;

COMMENT ON VIEW report.cycle_time IS 'Distribution of the cycle times of each station and production day: a histogram with 32 bins an octave. Bins without reports have no row.';
COMMENT ON COLUMN report.cycle_time.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.cycle_time.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.cycle_time.station IS 'code of the station';
COMMENT ON COLUMN report.cycle_time.from_s IS 'lower end of the bin, seconds';
COMMENT ON COLUMN report.cycle_time.below_s IS 'upper end of the bin, exclusive, seconds';
COMMENT ON COLUMN report.cycle_time.count IS 'reports whose cycle time lies in the bin';
COMMENT ON COLUMN report.cycle_time.share IS 'of all reports of that station and day';
