CREATE VIEW report.station_yield AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    s.seq AS station_seq,
    s.section,
    s.name AS station_name,
    x.inspected,
    x.first_pass_good,
    x.first_pass_good / nullif(x.inspected, 0)::double precision AS first_pass_yield,
    x.pass AS good,
    x.rework,
    x.scrap,
    x.passed,
    x.retests,
    x.pass / nullif(x.pass + x.rework + x.scrap, 0)::double precision AS quality_ratio,
    x.rework / nullif(x.pass + x.rework + x.scrap, 0)::double precision AS rework_ratio,
    x.scrap / nullif(x.pass + x.rework + x.scrap, 0)::double precision AS scrap_ratio,
    x.scrap / nullif(f.produced, 0)::double precision AS fall_off_ratio,
    x.passed / nullif(x.passed + x.scrap, 0)::double precision AS final_yield,
    kpi.quantile(x.cycle_bin, x.cycle_n, 0.50) AS cycle_p50_s,
    kpi.quantile(x.cycle_bin, x.cycle_n, 0.95) AS cycle_p95_s
FROM kpi.line_day d
JOIN kpi.station_sum x ON x.line_id = d.line_id AND x.grain = 'day' AND x.starts_at = d.starts_at
JOIN mes.station s ON s.station_id = x.station_id
JOIN mes.line l ON l.line_id = d.line_id
CROSS JOIN LATERAL (
    SELECT sum(y.pass + y.rework + y.scrap) AS produced
    FROM kpi.station_sum y
    WHERE y.line_id = d.line_id AND y.grain = 'day' AND y.starts_at = d.starts_at
        AND y.station_id = (SELECT station_id FROM mes.station WHERE line_id = d.line_id AND active ORDER BY seq LIMIT 1)
) AS f;

COMMENT ON VIEW report.station_yield IS 'Yield of each station and production day (ISO 22400-2: first pass yield, quality, rework, scrap and fall-off ratio). good + rework + scrap are all reports.';
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
COMMENT ON COLUMN report.station_yield.scrap IS 'attempts that ended in scrap, as reported';
COMMENT ON COLUMN report.station_yield.passed IS 'distinct cells that passed, at whichever attempt';
COMMENT ON COLUMN report.station_yield.retests IS 'reports of a cell that no rework had called for: another one before it that day had passed or was scrap';
COMMENT ON COLUMN report.station_yield.quality_ratio IS 'good / all attempts; NULL where there was none';
COMMENT ON COLUMN report.station_yield.rework_ratio IS 'rework / all attempts; NULL where there was none';
COMMENT ON COLUMN report.station_yield.scrap_ratio IS 'scrap / all attempts; NULL where there was none';
COMMENT ON COLUMN report.station_yield.fall_off_ratio IS 'scrap / attempts at the first station of the route in that day; adds up over stations to what the line loses';
COMMENT ON COLUMN report.station_yield.final_yield IS 'passed / (passed + scrap): of the cells that the station was done with, those that went on';
COMMENT ON COLUMN report.station_yield.cycle_p50_s IS 'median cycle time, seconds (histogram, relative error below 1/32)';
COMMENT ON COLUMN report.station_yield.cycle_p95_s IS '95 % of cycle times are at most this, seconds (histogram, relative error below 1/32)';
