CREATE VIEW report.defect_pareto AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    f.code AS defect,
    f.name AS defect_name,
    x.n AS count,
    x.n / sum(x.n) OVER day::double precision AS share,
    sum(x.n) OVER (day ORDER BY x.n DESC, s.seq, f.code ROWS UNBOUNDED PRECEDING) / sum(x.n) OVER day::double precision AS cumulative_share,
    row_number() OVER (day ORDER BY x.n DESC, s.seq, f.code) AS rank
FROM kpi.line_day d
JOIN kpi.defect_sum x ON x.line_id = d.line_id AND x.grain = 'day' AND x.starts_at = d.starts_at
JOIN mes.defect f USING (defect_id)
JOIN mes.station s USING (station_id)
JOIN mes.line l ON l.line_id = d.line_id
WINDOW day AS (PARTITION BY d.line_id, d.production_day);

COMMENT ON VIEW report.defect_pareto IS 'Why cells missed the requirements, by line and production day, the most frequent defect first.';
COMMENT ON COLUMN report.defect_pareto.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.defect_pareto.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.defect_pareto.station IS 'code of the station';
COMMENT ON COLUMN report.defect_pareto.defect IS 'code of the defect';
COMMENT ON COLUMN report.defect_pareto.defect_name IS 'what is wrong';
COMMENT ON COLUMN report.defect_pareto.count IS 'reports of rework or scrap with this defect';
COMMENT ON COLUMN report.defect_pareto.share IS 'of all reports with a defect on that line and day';
COMMENT ON COLUMN report.defect_pareto.cumulative_share IS 'of this defect and all more frequent ones';
COMMENT ON COLUMN report.defect_pareto.rank IS '1 for the most frequent';
