-- Mergeable sums. Every figure is replaced as a whole from the events of its bucket, or from the buckets of its day.
CREATE TABLE kpi.station_bucket (
    line_id         smallint NOT NULL,
    bucket          timestamptz NOT NULL,
    station_id      smallint NOT NULL,
    pass            bigint NOT NULL,
    rework          bigint NOT NULL,
    scrap           bigint NOT NULL,
    inspected       bigint NOT NULL,
    first_pass_good bigint NOT NULL,
    cycle_bin       smallint[] NOT NULL,
    cycle_n         bigint[] NOT NULL,
    last_event_at   timestamptz NOT NULL,
    PRIMARY KEY (line_id, bucket, station_id)
);
CREATE TABLE kpi.defect_bucket (
    line_id   smallint NOT NULL,
    bucket    timestamptz NOT NULL,
    defect_id smallint NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (line_id, bucket, defect_id)
);
CREATE TABLE kpi.station_hour (
    line_id         smallint NOT NULL,
    hour            timestamptz NOT NULL,
    station_id      smallint NOT NULL,
    pass            bigint NOT NULL,
    rework          bigint NOT NULL,
    scrap           bigint NOT NULL,
    inspected       bigint NOT NULL,
    first_pass_good bigint NOT NULL,
    cycle_bin       smallint[] NOT NULL,
    cycle_n         bigint[] NOT NULL,
    last_event_at   timestamptz NOT NULL,
    PRIMARY KEY (line_id, hour, station_id)
);
CREATE TABLE kpi.station_day (
    line_id         smallint NOT NULL,
    production_day  date NOT NULL,
    station_id      smallint NOT NULL,
    pass            bigint NOT NULL,
    rework          bigint NOT NULL,
    scrap           bigint NOT NULL,
    inspected       bigint NOT NULL,
    first_pass_good bigint NOT NULL,
    cycle_bin       smallint[] NOT NULL,
    cycle_n         bigint[] NOT NULL,
    last_event_at   timestamptz NOT NULL,
    PRIMARY KEY (line_id, production_day, station_id)
);
CREATE TABLE kpi.defect_day (
    line_id        smallint NOT NULL,
    production_day date NOT NULL,
    defect_id      smallint NOT NULL,
    n              bigint NOT NULL,
    PRIMARY KEY (line_id, production_day, defect_id)
);
CREATE TABLE kpi.line_day (
    line_id        smallint NOT NULL,
    production_day date NOT NULL,
    starts_at      timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    events         bigint NOT NULL,
    good           bigint NOT NULL,
    scrap          bigint NOT NULL,
    last_event_at  timestamptz,
    PRIMARY KEY (line_id, production_day)
);
COMMENT ON TABLE kpi.station_bucket IS 'five minutes of a station; sums of buckets make hours, sums of hours make days';
COMMENT ON TABLE kpi.station_hour IS 'an elapsed hour of a production day of a station';
COMMENT ON COLUMN kpi.station_bucket.inspected IS 'distinct units at attempt 1';
COMMENT ON COLUMN kpi.station_bucket.first_pass_good IS 'of these, passed at attempt 1';
COMMENT ON COLUMN kpi.station_bucket.cycle_bin IS 'occupied bins of the cycle time histogram: the upper bits of the float32 value (32 bins an octave)';
COMMENT ON COLUMN kpi.line_day.good IS 'passed the count point, the last station of the route';

-- The q-quantile of a histogram with 32 bins an octave: a bin holds the float32 values that share their upper 14 bits.
-- Interpolated inside the bin, so at most one bin wide off: relative error below 1/32.
-- Bodies are bound when they are created, so a role that may read `report` and nothing else can use them through its views.
CREATE FUNCTION kpi.bin_edge(bin integer) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN power(2.0::double precision, (bin >> 5) - 127) * (1 + (bin & 31) / 32.0::double precision);

CREATE FUNCTION kpi.quantile(bins smallint[], n bigint[], q double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH cumulated AS (
        SELECT bin, count, sum(count) OVER (ORDER BY bin) AS upto, sum(count) OVER () AS total
        FROM unnest(bins, n) AS t (bin, count)
    )
    SELECT kpi.bin_edge(bin) + (kpi.bin_edge(bin + 1) - kpi.bin_edge(bin)) * (q * total - (upto - count)) / count
    FROM cumulated WHERE upto >= q * total ORDER BY bin LIMIT 1;
END;

CREATE AGGREGATE kpi.product (double precision) (SFUNC = float8mul, STYPE = double precision, INITCOND = '1');
