CREATE VIEW report.quarantine AS
SELECT
    l.path AS line,
    s.code || '/' || m.code AS machine,
    q.reason,
    date_trunc('hour', q.first_seen_at) AS hour_starts_at,
    count(*) AS entries,
    sum(q.times) AS times
FROM mes.quarantine q
LEFT JOIN mes.machine m USING (machine_id)
LEFT JOIN mes.station s USING (station_id)
LEFT JOIN mes.line l ON starts_with(q.topic, 'umh/v1/cbak/' || l.path || '/')
GROUP BY l.path, s.code || '/' || m.code, q.reason, date_trunc('hour', q.first_seen_at);

COMMENT ON VIEW report.quarantine IS 'What was not understood and still waits to be replayed or discarded, by where it came from, reason and hour.';
COMMENT ON COLUMN report.quarantine.line IS 'ISA-95 path: site/area/line; NULL where the topic names no line that is known';
COMMENT ON COLUMN report.quarantine.machine IS 'station/machine; NULL where the topic names none that was known then';
COMMENT ON COLUMN report.quarantine.reason IS 'why it was not understood: not_json, invalid, duplicate_key, nul, oversize, unknown_defect, unknown_characteristic, unknown_machine, topic; or before_retention: understood, and of a time whose events have been dropped';
COMMENT ON COLUMN report.quarantine.hour_starts_at IS 'begin of the UTC hour in which it was first seen';
COMMENT ON COLUMN report.quarantine.entries IS 'different payloads';
COMMENT ON COLUMN report.quarantine.times IS 'how often they were seen';
