CREATE VIEW report.daily_characteristic AS
SELECT
    l.path AS line,
    d.production_day,
    s.code AS station,
    c.name AS characteristic,
    c.unit,
    x.n,
    -- the origin is a whole number of steps; a double that is no whole number loses digits on its way to numeric
    ((c.grid_origin / c.grid_step)::numeric + x.total / nullif(x.n, 0))::double precision * c.grid_step AS mean,
    sqrt(((x.n * x.squares - x.total * x.total) / nullif(x.n::numeric * (x.n - 1), 0))::double precision) * c.grid_step AS sd,
    x.low AS lowest,
    x.high AS highest,
    c.nominal,
    c.lsl,
    c.usl,
    x.implausible
FROM kpi.line_day d
JOIN kpi.reading_sum x ON x.line_id = d.line_id AND x.grain = 'day' AND x.starts_at = d.starts_at
JOIN mes.characteristic c USING (station_id, slot)
JOIN mes.station s USING (station_id)
JOIN mes.line l ON l.line_id = d.line_id;

COMMENT ON VIEW report.daily_characteristic IS 'What a station measured in a production day: count, mean, spread and extremes of each characteristic.';
COMMENT ON COLUMN report.daily_characteristic.line IS 'ISA-95 path: site/area/line';
COMMENT ON COLUMN report.daily_characteristic.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.daily_characteristic.station IS 'code of the station';
COMMENT ON COLUMN report.daily_characteristic.characteristic IS 'what is measured';
COMMENT ON COLUMN report.daily_characteristic.unit IS 'unit of mean, sd, extremes and limits';
COMMENT ON COLUMN report.daily_characteristic.n IS 'readings';
COMMENT ON COLUMN report.daily_characteristic.mean IS 'arithmetic mean; NULL without readings';
COMMENT ON COLUMN report.daily_characteristic.sd IS 'standard deviation with n - 1; NULL below two readings';
COMMENT ON COLUMN report.daily_characteristic.lowest IS 'smallest reading';
COMMENT ON COLUMN report.daily_characteristic.highest IS 'largest reading';
COMMENT ON COLUMN report.daily_characteristic.nominal IS 'as it should be, by the seeds of today';
COMMENT ON COLUMN report.daily_characteristic.lsl IS 'lower specification limit, NULL where there is none';
COMMENT ON COLUMN report.daily_characteristic.usl IS 'upper specification limit, NULL where there is none';
COMMENT ON COLUMN report.daily_characteristic.implausible IS 'readings so far off that they are in none of the other figures';
