CREATE VIEW report.machine_state AS
SELECT
    l.path AS line,
    s.code AS station,
    m.code AS machine,
    e.state::text AS state,
    e.reason,
    e.at AS began_at,
    n.at AS ended_at,
    extract(epoch FROM coalesce(n.at, now()) - e.at)::double precision AS lasted_s,
    e.boot,
    e.seq,
    e.received_at
FROM mes.state_event e
JOIN mes.line l USING (line_id)
JOIN mes.station s USING (station_id)
JOIN mes.machine m USING (machine_id)
LEFT JOIN LATERAL (
    SELECT x.at FROM mes.state_event x
    WHERE x.machine_id = e.machine_id AND x.at >= e.at AND (x.at, x.boot, x.seq) > (e.at, e.boot, e.seq)
    ORDER BY x.at LIMIT 1
) AS n ON true;

COMMENT ON VIEW report.machine_state IS 'What state each machine was in, as it reported it, from when to when. Ask for a stretch of began_at.';
COMMENT ON COLUMN report.machine_state.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.machine_state.station IS 'code of the station';
COMMENT ON COLUMN report.machine_state.machine IS 'code of the machine at its station';
COMMENT ON COLUMN report.machine_state.state IS 'PackML state by name: execute, held, suspended, aborted, ...';
COMMENT ON COLUMN report.machine_state.reason IS 'why, by the machine; NULL where it said nothing';
COMMENT ON COLUMN report.machine_state.began_at IS 'begin of the state, by the machine''s clock';
COMMENT ON COLUMN report.machine_state.ended_at IS 'begin of the machine''s next state; NULL while there is none';
COMMENT ON COLUMN report.machine_state.lasted_s IS 'seconds from begin to end, or until now';
COMMENT ON COLUMN report.machine_state.boot IS 'restart count of the machine';
COMMENT ON COLUMN report.machine_state.seq IS 'number of the message within the boot';
COMMENT ON COLUMN report.machine_state.received_at IS 'when it arrived';
