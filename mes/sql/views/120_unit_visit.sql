CREATE VIEW report.unit_visit AS
SELECT
    e.unit,
    l.path AS line,
    s.code AS station,
    s.name AS station_name,
    m.code AS machine,
    nullif(e.channel, -1) AS channel,
    e.at,
    d.production_day,
    e.attempt,
    CASE e.result WHEN 0 THEN 'pass' WHEN 1 THEN 'rework' ELSE 'scrap' END AS result,
    f.code AS defect,
    f.name AS defect_name,
    u.corrected_at AS unscrapped_at,
    e.cycle_s,
    (SELECT jsonb_object_agg(c.name, e.meas[c.slot + 1]) FROM mes.characteristic c
     WHERE c.station_id = e.station_id AND e.meas[c.slot + 1] <> 'NaN') AS readings,
    e.lots,
    e.boot,
    e.seq,
    e.received_at,
    e.received_at >= d.ends_at AS is_late,
    e.at > e.received_at + interval '5 minutes' AS is_clock_ahead
FROM mes.cell_event e
JOIN mes.line l USING (line_id)
JOIN mes.station s USING (station_id)
JOIN mes.machine m USING (machine_id)
LEFT JOIN mes.defect f ON f.defect_id = e.defect_id
LEFT JOIN mes.unscrap u ON u.machine_id = e.machine_id AND u.boot = e.boot AND u.seq = e.seq
LEFT JOIN LATERAL (
    SELECT x.production_day, x.ends_at FROM kpi.line_day x
    WHERE x.line_id = e.line_id AND x.production_day BETWEEN e.at::date - 2 AND e.at::date + 2 AND x.starts_at <= e.at AND x.ends_at > e.at
) AS d ON true;

COMMENT ON VIEW report.unit_visit IS 'Every visit of every cell to a station, as its machine reported it. Ask for a unit; without one this reads all events.';
COMMENT ON COLUMN report.unit_visit.unit IS 'serial of the cell';
COMMENT ON COLUMN report.unit_visit.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.unit_visit.station IS 'code of the station';
COMMENT ON COLUMN report.unit_visit.station_name IS 'what the station does';
COMMENT ON COLUMN report.unit_visit.machine IS 'code of the machine at its station';
COMMENT ON COLUMN report.unit_visit.channel IS 'slot in a cabinet, oven or chamber; NULL where the machine has none';
COMMENT ON COLUMN report.unit_visit.at IS 'completion, by the machine''s clock';
COMMENT ON COLUMN report.unit_visit.production_day IS 'on which the visit counts; NULL until it is summed';
COMMENT ON COLUMN report.unit_visit.attempt IS '1 for the first visit of the cell at that station';
COMMENT ON COLUMN report.unit_visit.result IS 'pass, rework or scrap';
COMMENT ON COLUMN report.unit_visit.defect IS 'code of the defect; NULL with a pass';
COMMENT ON COLUMN report.unit_visit.defect_name IS 'what is wrong';
COMMENT ON COLUMN report.unit_visit.unscrapped_at IS 'when this scrap was taken back; NULL where it was not';
COMMENT ON COLUMN report.unit_visit.cycle_s IS 'cycle time, seconds';
COMMENT ON COLUMN report.unit_visit.readings IS 'what was measured, by characteristic, in the unit of the seeds';
COMMENT ON COLUMN report.unit_visit.lots IS 'lots that were consumed, by kind';
COMMENT ON COLUMN report.unit_visit.boot IS 'restart count of the machine';
COMMENT ON COLUMN report.unit_visit.seq IS 'number of the message within the boot';
COMMENT ON COLUMN report.unit_visit.received_at IS 'when it arrived';
COMMENT ON COLUMN report.unit_visit.is_late IS 'whether it arrived after its production day had ended';
COMMENT ON COLUMN report.unit_visit.is_clock_ahead IS 'whether its time was more than five minutes ahead of the clock that received it';
