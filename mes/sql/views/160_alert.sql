CREATE VIEW report.alert AS
SELECT
    l.path AS line,
    h.name AS alert,
    h.raised_at,
    h.reason,
    h.cleared_at,
    h.clear_reason,
    h.cleared_at IS NULL AS is_raised,
    extract(epoch FROM coalesce(h.cleared_at, now()) - h.raised_at)::double precision / 60 AS lasted_min
FROM mes.alert_history h
JOIN mes.line l USING (line_id);

COMMENT ON VIEW report.alert IS 'Every alert that was ever raised, and those that are.';
COMMENT ON COLUMN report.alert.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.alert.alert IS 'behind_target, yield_low, line_silent or data_incomplete';
COMMENT ON COLUMN report.alert.raised_at IS 'when it was raised: the threshold had been passed for its hold time';
COMMENT ON COLUMN report.alert.reason IS 'the figures that raised it, in words';
COMMENT ON COLUMN report.alert.cleared_at IS 'when it was cleared; NULL while it is raised';
COMMENT ON COLUMN report.alert.clear_reason IS 'the figures that cleared it, in words';
COMMENT ON COLUMN report.alert.is_raised IS 'whether it is raised now';
COMMENT ON COLUMN report.alert.lasted_min IS 'minutes from raised_at to cleared_at, or to now';

CREATE VIEW report.alert_now AS
SELECT
    l.path AS line,
    r.name AS alert,
    coalesce(a.state, 'cleared') AS state,
    a.since,
    a.reason,
    a.said_at,
    r.raise_at,
    r.clear_at,
    r.hold_s,
    r.least
FROM mes.alert_rule r
JOIN mes.line l USING (line_id)
LEFT JOIN mes.alert a ON a.line_id = r.line_id AND a.name = r.name
WHERE l.active;

COMMENT ON VIEW report.alert_now IS 'Each alert of each line as it is, with its thresholds from the seeds.';
COMMENT ON COLUMN report.alert_now.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.alert_now.alert IS 'behind_target, yield_low, line_silent or data_incomplete';
COMMENT ON COLUMN report.alert_now.state IS 'raised or cleared';
COMMENT ON COLUMN report.alert_now.since IS 'since when; NULL until a rollup has looked';
COMMENT ON COLUMN report.alert_now.reason IS 'the figures behind it in words, as of said_at; brought up to date once a minute while it is raised';
COMMENT ON COLUMN report.alert_now.said_at IS 'when the reason was written';
COMMENT ON COLUMN report.alert_now.raise_at IS 'threshold: part of the day''s target that is lacking (behind_target), output yield (yield_low), seconds (line_silent), completeness (data_incomplete)';
COMMENT ON COLUMN report.alert_now.clear_at IS 'threshold beyond which it is cleared';
COMMENT ON COLUMN report.alert_now.hold_s IS 'for how long either threshold must be passed, seconds';
COMMENT ON COLUMN report.alert_now.least IS 'cells of the day below which nothing is judged (yield_low)';
