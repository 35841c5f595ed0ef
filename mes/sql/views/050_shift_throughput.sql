CREATE VIEW report.shift_throughput AS
SELECT
    l.path AS line,
    x.production_day,
    x.shift,
    x.position AS shift_of_day,
    x.starts_at,
    x.ends_at,
    x.good,
    x.scrap,
    x.events,
    t.target,
    x.good / nullif(t.target, 0) AS attainment,
    x.good - t.target AS gap,
    x.good * 3600 / nullif(t.elapsed_s, 0) AS pace_per_h,
    t.scheduled_s / 3600 AS scheduled_h,
    x.last_event_at,
    now() >= x.ends_at AS is_over
FROM kpi.line_shift x
JOIN kpi.day d USING (line_id, production_day)
JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL (
    SELECT
        d.target * s.scheduled_s / nullif(d.scheduled_s, 0) AS target,
        s.scheduled_s,
        kpi.seconds(d.scheduled * tstzmultirange(tstzrange(x.starts_at, greatest(x.starts_at, least(x.ends_at, now()))))) AS elapsed_s
    FROM (SELECT kpi.seconds(d.scheduled * tstzmultirange(tstzrange(x.starts_at, x.ends_at))) AS scheduled_s) AS s
) AS t;

COMMENT ON VIEW report.shift_throughput IS 'Good cells of each line and shift against its part of the day''s target. A shift belongs to the production day on which it began.';
COMMENT ON COLUMN report.shift_throughput.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.shift_throughput.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.shift_throughput.shift IS 'name of the shift';
COMMENT ON COLUMN report.shift_throughput.shift_of_day IS '0 for the first shift of the production day';
COMMENT ON COLUMN report.shift_throughput.starts_at IS 'begin of the shift';
COMMENT ON COLUMN report.shift_throughput.ends_at IS 'end of the shift, exclusive';
COMMENT ON COLUMN report.shift_throughput.good IS 'cells that passed the count point in that shift';
COMMENT ON COLUMN report.shift_throughput.scrap IS 'reports of scrap at any station of the line in that shift';
COMMENT ON COLUMN report.shift_throughput.events IS 'events counted in that shift';
COMMENT ON COLUMN report.shift_throughput.target IS 'the day''s target in proportion to the scheduled time of the shift, cells';
COMMENT ON COLUMN report.shift_throughput.attainment IS 'good / target; NULL without target';
COMMENT ON COLUMN report.shift_throughput.gap IS 'good - target, cells';
COMMENT ON COLUMN report.shift_throughput.pace_per_h IS 'good cells for each scheduled hour that has passed; NULL before the first';
COMMENT ON COLUMN report.shift_throughput.scheduled_h IS 'planned time less breaks, planned stops and holidays, hours';
COMMENT ON COLUMN report.shift_throughput.last_event_at IS 'time of the latest event counted';
COMMENT ON COLUMN report.shift_throughput.is_over IS 'whether the shift has ended';
