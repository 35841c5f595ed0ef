-- In the search path of whoever asks: a plain SQL function, so that it is planned as the view is, by the index of serials.
CREATE FUNCTION report.unit_history(serial text) RETURNS SETOF report.unit_visit LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT * FROM report.unit_visit WHERE unit = serial ORDER BY at, station, attempt;
END;

COMMENT ON FUNCTION report.unit_history(text) IS 'The life of one cell: its visits in order of time, columns as in report.unit_visit.';
