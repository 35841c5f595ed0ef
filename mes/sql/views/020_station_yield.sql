CREATE VIEW report.station_yield AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    s.seq AS station_seq,
    s.section,
    s.name AS station_name,
    d.inspected,
    d.first_pass_good,
    d.first_pass_good / nullif(d.inspected, 0)::double precision AS first_pass_yield,
    d.pass AS good,
    d.rework,
    d.scrap,
    d.pass / nullif(d.pass + d.rework + d.scrap, 0)::double precision AS quality_ratio,
    kpi.quantile(d.cycle_bin, d.cycle_n, 0.50) AS cycle_p50_s,
    kpi.quantile(d.cycle_bin, d.cycle_n, 0.95) AS cycle_p95_s
FROM kpi.station_day d
JOIN mes.station s USING (station_id)
JOIN mes.line l ON l.line_id = d.line_id;

COMMENT ON VIEW report.station_yield IS 'Yield of each station and production day (ISO 22400-2: first pass yield, quality ratio).';
COMMENT ON COLUMN report.station_yield.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.station_yield.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.station_yield.station IS 'code of the station';
COMMENT ON COLUMN report.station_yield.station_seq IS 'position in the route';
COMMENT ON COLUMN report.station_yield.section IS 'group of stations: winding, assembly, finishing';
COMMENT ON COLUMN report.station_yield.station_name IS 'what the station does';
COMMENT ON COLUMN report.station_yield.inspected IS 'distinct cells at their first attempt (ISO 22400 inspected parts)';
COMMENT ON COLUMN report.station_yield.first_pass_good IS 'of these, passed at the first attempt (good parts)';
COMMENT ON COLUMN report.station_yield.first_pass_yield IS 'first_pass_good / inspected; NULL where nothing was inspected';
COMMENT ON COLUMN report.station_yield.good IS 'attempts that passed';
COMMENT ON COLUMN report.station_yield.rework IS 'attempts that missed and may be tried again';
COMMENT ON COLUMN report.station_yield.scrap IS 'attempts that ended in scrap';
COMMENT ON COLUMN report.station_yield.quality_ratio IS 'good / all attempts; NULL where there was none';
COMMENT ON COLUMN report.station_yield.cycle_p50_s IS 'median cycle time, seconds (histogram, relative error below 1/32)';
COMMENT ON COLUMN report.station_yield.cycle_p95_s IS '95 % of cycle times are at most this, seconds (histogram, relative error below 1/32)';
