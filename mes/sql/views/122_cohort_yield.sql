-- Runs with the rights of its owner, as views do; its names are bound here, so no search path can change them.
CREATE FUNCTION report.cohort_yield(of_line text, first_day date, last_day date)
RETURNS TABLE (line text, production_day date, started bigint, good bigint, scrap bigint, open bigint, final_yield double precision, is_open boolean)
LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    WITH started AS (
        SELECT DISTINCT d.line_id, d.production_day, e.unit
        FROM mes.line l
        JOIN kpi.line_day d USING (line_id)
        JOIN mes.cell_event e ON e.line_id = d.line_id AND e.at >= d.starts_at AND e.at < d.ends_at
        WHERE l.path = of_line AND d.production_day BETWEEN first_day AND last_day AND e.attempt = 1
            AND e.station_id = (SELECT s.station_id FROM mes.station s WHERE s.line_id = l.line_id AND s.active ORDER BY s.seq LIMIT 1)
    ), ended AS (
        SELECT c.production_day, coalesce(v.good, false) AS good, coalesce(v.scrap, false) AND NOT coalesce(v.good, false) AS scrap
        FROM started c
        CROSS JOIN LATERAL (
            SELECT bool_or(e.result = 0 AND s.is_count_point) AS good, bool_or(e.result = 2 AND u.seq IS NULL) AS scrap
            FROM mes.cell_event e
            JOIN mes.station s USING (station_id)
            LEFT JOIN mes.unscrap u ON u.machine_id = e.machine_id AND u.boot = e.boot AND u.seq = e.seq
            WHERE e.unit = c.unit AND e.line_id = c.line_id
            OFFSET 0
        ) AS v
    )
    SELECT of_line, e.production_day, count(*), count(*) FILTER (WHERE e.good), count(*) FILTER (WHERE e.scrap),
        count(*) FILTER (WHERE NOT e.good AND NOT e.scrap), count(*) FILTER (WHERE e.good) / count(*)::double precision,
        bool_or(NOT e.good AND NOT e.scrap)
    FROM ended e GROUP BY e.production_day ORDER BY e.production_day;
END;

COMMENT ON FUNCTION report.cohort_yield(text, date, date) IS 'What became of the cells that a line (line) started on a production day (production_day): started, good, scrap, open (neither yet), final_yield = good / started, is_open while some are open. It reads the events of these cells, about a second for a day.';
