CREATE VIEW report.hourly_machine AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    m.code AS machine,
    x.starts_at AS hour_starts_at,
    (extract(epoch FROM x.starts_at - d.starts_at) / 3600)::integer AS hour_of_day,
    sum(r.received)::bigint AS events
FROM kpi.line_day d
JOIN kpi.machine_sum x ON x.line_id = d.line_id AND x.grain = 'hour' AND x.starts_at >= d.starts_at AND x.starts_at < d.ends_at
CROSS JOIN LATERAL unnest(x.machine_id, x.received) AS r (machine_id, received)
JOIN mes.machine m ON m.machine_id = r.machine_id
JOIN mes.station s ON s.station_id = m.station_id
JOIN mes.line l ON l.line_id = d.line_id
GROUP BY l.path, d.production_day, d.starts_at, s.code, m.code, x.starts_at;

COMMENT ON VIEW report.hourly_machine IS 'What each machine reported in each hour of a production day. An hour without events of a machine has no row.';
COMMENT ON COLUMN report.hourly_machine.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.hourly_machine.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.hourly_machine.station IS 'code of the station';
COMMENT ON COLUMN report.hourly_machine.machine IS 'code of the machine at its station';
COMMENT ON COLUMN report.hourly_machine.hour_starts_at IS 'begin of the hour';
COMMENT ON COLUMN report.hourly_machine.hour_of_day IS 'elapsed hours since the production day began: 0 to 22, 23 or 24';
COMMENT ON COLUMN report.hourly_machine.events IS 'events of the machine in that hour, whatever their result';
