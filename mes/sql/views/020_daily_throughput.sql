CREATE VIEW report.daily_throughput AS
SELECT
    l.path AS line,
    d.production_day,
    p.code AS product,
    d.good,
    d.target,
    d.good / nullif(d.target, 0)::double precision AS attainment,
    d.good - d.target AS gap,
    d.scrap - d.unscrapped_booked AS scrap,
    d.scrap - d.unscrapped AS scrap_restated,
    d.started,
    d.events,
    d.good * p.energy_wh / 1e6 AS energy_mwh,
    d.good * p.energy_wh * d.days_per_year / 1e9 AS run_rate_gwh,
    d.days_per_year AS run_rate_days_per_year,
    d.scheduled_s / 3600 AS scheduled_h,
    d.starts_at,
    d.ends_at,
    d.last_event_at,
    now() >= d.ends_at AS is_over,
    r.closed_at IS NOT NULL AS is_closed,
    coalesce(r.version, 1) AS version,
    d.missing,
    d.quarantined,
    d.late,
    d.ahead AS clock_ahead,
    d.events / nullif(d.events + d.missing + d.quarantined, 0)::double precision AS completeness
FROM kpi.day d
JOIN mes.line l USING (line_id)
JOIN mes.product p USING (product_id)
LEFT JOIN mes.day_report r USING (line_id, production_day);

COMMENT ON VIEW report.daily_throughput IS 'Good cells of each line and production day against the target, and how complete the figures are. A day without events has a row while the line has worked within a month.';
COMMENT ON COLUMN report.daily_throughput.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.daily_throughput.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.daily_throughput.product IS 'cell type that the line makes';
COMMENT ON COLUMN report.daily_throughput.good IS 'cells that passed the count point (last station of the route) in that day, by the time of the event, each once';
COMMENT ON COLUMN report.daily_throughput.target IS 'cells a day in force on that day, in proportion to what of its regular time is scheduled; NULL where no target is';
COMMENT ON COLUMN report.daily_throughput.attainment IS 'good / target; NULL without target and on days without scheduled time';
COMMENT ON COLUMN report.daily_throughput.gap IS 'good - target, cells';
COMMENT ON COLUMN report.daily_throughput.scrap IS 'reports of scrap at any station of the line in that day, less the corrections booked on that day (so a day may have less than none)';
COMMENT ON COLUMN report.daily_throughput.scrap_restated IS 'reports of scrap in that day, less those that were ever taken back';
COMMENT ON COLUMN report.daily_throughput.started IS 'cells that came off the first station of the route for the first time';
COMMENT ON COLUMN report.daily_throughput.events IS 'events counted in that day';
COMMENT ON COLUMN report.daily_throughput.energy_mwh IS 'good cells times nominal energy of a cell, MWh';
COMMENT ON COLUMN report.daily_throughput.run_rate_gwh IS 'GWh a year at this day''s output over run_rate_days_per_year production days';
COMMENT ON COLUMN report.daily_throughput.run_rate_days_per_year IS 'calendar basis of run_rate_gwh: production days a year, from the target';
COMMENT ON COLUMN report.daily_throughput.scheduled_h IS 'planned time less breaks, planned stops and holidays, hours';
COMMENT ON COLUMN report.daily_throughput.starts_at IS 'begin of the production day';
COMMENT ON COLUMN report.daily_throughput.ends_at IS 'end of the production day, exclusive';
COMMENT ON COLUMN report.daily_throughput.last_event_at IS 'time of the latest event counted';
COMMENT ON COLUMN report.daily_throughput.is_over IS 'whether the production day has ended';
COMMENT ON COLUMN report.daily_throughput.is_closed IS 'whether the day is closed: over for 24 hours and without change for one; what changes afterwards is a restatement';
COMMENT ON COLUMN report.daily_throughput.version IS '1, and one more for each restatement since the day was closed';
COMMENT ON COLUMN report.daily_throughput.missing IS 'sequence numbers of the line''s machines that never came';
COMMENT ON COLUMN report.daily_throughput.quarantined IS 'events that came and wait in the quarantine';
COMMENT ON COLUMN report.daily_throughput.late IS 'events that arrived after the day had ended';
COMMENT ON COLUMN report.daily_throughput.clock_ahead IS 'events whose time was more than five minutes ahead of the clock that received them';
COMMENT ON COLUMN report.daily_throughput.completeness IS 'events / (events + missing + quarantined); NULL where none is known of';
