CREATE VIEW report.daily_throughput AS
SELECT
    l.path AS line,
    d.production_day,
    p.code AS product,
    d.good,
    t.cells_per_day AS target,
    d.good / nullif(t.cells_per_day, 0)::double precision AS attainment,
    d.good - t.cells_per_day AS gap,
    d.scrap,
    d.events,
    d.good * p.energy_wh / 1e6 AS energy_mwh,
    d.good * p.energy_wh * t.days_per_year / 1e9 AS run_rate_gwh,
    t.days_per_year AS run_rate_days_per_year,
    d.starts_at,
    d.ends_at,
    d.last_event_at,
    now() >= d.ends_at AS is_closed
FROM kpi.line_day d
JOIN mes.line l USING (line_id)
JOIN mes.product p USING (product_id)
LEFT JOIN LATERAL (
    SELECT cells_per_day, days_per_year FROM mes.target
    WHERE target.line_id = d.line_id AND target.from_day <= d.production_day
    ORDER BY from_day DESC LIMIT 1
) t ON true;

COMMENT ON VIEW report.daily_throughput IS 'Good cells of each line and production day against the target.';
COMMENT ON COLUMN report.daily_throughput.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.daily_throughput.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.daily_throughput.product IS 'cell type that the line makes';
COMMENT ON COLUMN report.daily_throughput.good IS 'cells that passed the count point (last station of the route) in that day, by the time of the event';
COMMENT ON COLUMN report.daily_throughput.target IS 'cells a day in force on that day; NULL where no target is';
COMMENT ON COLUMN report.daily_throughput.attainment IS 'good / target; NULL without target';
COMMENT ON COLUMN report.daily_throughput.gap IS 'good - target, cells';
COMMENT ON COLUMN report.daily_throughput.scrap IS 'cells scrapped at any station of the line in that day';
COMMENT ON COLUMN report.daily_throughput.events IS 'events counted in that day';
COMMENT ON COLUMN report.daily_throughput.energy_mwh IS 'good cells times nominal energy of a cell, MWh';
COMMENT ON COLUMN report.daily_throughput.run_rate_gwh IS 'GWh a year at this day''s output over run_rate_days_per_year production days';
COMMENT ON COLUMN report.daily_throughput.run_rate_days_per_year IS 'calendar basis of run_rate_gwh: production days a year, from the target';
COMMENT ON COLUMN report.daily_throughput.starts_at IS 'begin of the production day';
COMMENT ON COLUMN report.daily_throughput.ends_at IS 'end of the production day, exclusive';
COMMENT ON COLUMN report.daily_throughput.last_event_at IS 'time of the latest event counted';
COMMENT ON COLUMN report.daily_throughput.is_closed IS 'whether the production day is over';
