-- What the numbers in events stand for, a line each: of machines with their stations and lines, of defects, of readings.
SELECT format('machine %s (station %s, line %s): %s/%s/%s', m.machine_id, s.station_id, l.line_id, l.path, s.code, m.code)
FROM mes.machine m JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
UNION ALL
SELECT format('defect %s: %s/%s %s', d.defect_id, l.path, s.code, d.code)
FROM mes.defect d JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
UNION ALL
SELECT format('reading %s: %s/%s %s', c.slot, l.path, s.code, c.name)
FROM mes.characteristic c JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id);
