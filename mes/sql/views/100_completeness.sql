CREATE VIEW report.completeness AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    m.code AS machine,
    coalesce(r.received, 0) + coalesce(g.missing, 0) + coalesce(q.counted, 0) AS expected,
    coalesce(r.received, 0) AS received,
    coalesce(u.duplicates, 0) AS duplicates,
    coalesce(r.late, 0) AS late,
    coalesce(r.ahead, 0) AS clock_ahead,
    coalesce(q.quarantined, 0) AS quarantined,
    coalesce(g.missing, 0) AS missing,
    g.missing_ranges,
    coalesce(r.received, 0) / nullif(coalesce(r.received, 0) + coalesce(g.missing, 0) + coalesce(q.counted, 0), 0)::double precision AS completeness
FROM kpi.line_day d
JOIN mes.line l USING (line_id)
JOIN mes.station s USING (line_id)
JOIN mes.machine m USING (station_id)
LEFT JOIN LATERAL (
    SELECT sum(x.received)::bigint AS received, sum(x.late)::bigint AS late, sum(x.ahead)::bigint AS ahead
    FROM kpi.machine_day x WHERE x.line_id = d.line_id AND x.production_day = d.production_day AND x.machine_id = m.machine_id
) AS r ON true
LEFT JOIN (
    SELECT machine_id, production_day, sum(n)::bigint AS missing,
        jsonb_agg(jsonb_build_object('boot', boot, 'first', first_seq, 'last', last_seq) ORDER BY boot, first_seq) AS missing_ranges
    FROM kpi.gap GROUP BY machine_id, production_day
) AS g ON g.machine_id = m.machine_id AND g.production_day = d.production_day
LEFT JOIN LATERAL (
    SELECT sum(x.n)::bigint AS duplicates FROM mes.duplicate x
    WHERE x.machine_id = m.machine_id AND x.bucket >= d.starts_at AND x.bucket < d.ends_at
) AS u ON true
LEFT JOIN (
    SELECT x.line_id, x.production_day, y.machine_id, count(*) AS quarantined, count(*) FILTER (WHERE y.counted) AS counted
    FROM mes.quarantine y JOIN kpi.line_day x ON y.first_seen_at >= x.starts_at AND y.first_seen_at < x.ends_at
    GROUP BY x.line_id, x.production_day, y.machine_id
) AS q ON q.line_id = d.line_id AND q.production_day = d.production_day AND q.machine_id = m.machine_id
WHERE m.active OR r.received > 0;

COMMENT ON VIEW report.completeness IS 'What each machine delivered of a production day, by its own count of messages.';
COMMENT ON COLUMN report.completeness.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.completeness.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.completeness.station IS 'code of the station';
COMMENT ON COLUMN report.completeness.machine IS 'code of the machine at its station';
COMMENT ON COLUMN report.completeness.expected IS 'received + missing + quarantined events whose number is known';
COMMENT ON COLUMN report.completeness.received IS 'events stored of that day';
COMMENT ON COLUMN report.completeness.duplicates IS 'deliveries of events of that day that were stored already';
COMMENT ON COLUMN report.completeness.late IS 'events that arrived after the production day had ended';
COMMENT ON COLUMN report.completeness.clock_ahead IS 'events whose time was more than five minutes ahead of the clock that received them';
COMMENT ON COLUMN report.completeness.quarantined IS 'what came on that day, was not understood and waits in the quarantine';
COMMENT ON COLUMN report.completeness.missing IS 'sequence numbers that never came and were not closed by hand; a gap belongs to the day that first reaches beyond it';
COMMENT ON COLUMN report.completeness.missing_ranges IS 'these, as JSON: boot, first, last; NULL where nothing is missing';
COMMENT ON COLUMN report.completeness.completeness IS 'received / expected; NULL where nothing was expected';
