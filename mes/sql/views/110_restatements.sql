CREATE VIEW report.restatements AS
SELECT
    l.path AS line,
    r.production_day,
    r.version,
    r.restated_at,
    r.good_before,
    r.good,
    r.scrap_before,
    r.scrap,
    r.events_before,
    r.events
FROM mes.restatement r
JOIN mes.line l USING (line_id);

COMMENT ON VIEW report.restatements IS 'What changed in a production day after it was closed: late events and corrections.';
COMMENT ON COLUMN report.restatements.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.restatements.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.restatements.version IS 'of the day''s figures that this made; the day was closed with version 1';
COMMENT ON COLUMN report.restatements.restated_at IS 'when the figures changed';
COMMENT ON COLUMN report.restatements.good_before IS 'good cells until then';
COMMENT ON COLUMN report.restatements.good IS 'good cells since';
COMMENT ON COLUMN report.restatements.scrap_before IS 'scrap_restated of daily_throughput until then';
COMMENT ON COLUMN report.restatements.scrap IS 'scrap_restated since';
COMMENT ON COLUMN report.restatements.events_before IS 'events until then';
COMMENT ON COLUMN report.restatements.events IS 'events since';
