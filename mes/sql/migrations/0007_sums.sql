-- Sums are functions of the events: these replace the former ones, and every bucket that has events is marked to be summed.
INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT DISTINCT line_id, bucket FROM kpi.station_bucket;
DROP TABLE kpi.station_bucket, kpi.defect_bucket, kpi.station_hour, kpi.station_day, kpi.defect_day, kpi.line_day;

-- The grid of a characteristic never changes, whatever the seeds say later, so its sums merge for ever.
ALTER TABLE mes.characteristic
    ADD COLUMN grid_origin double precision,
    ADD COLUMN grid_step double precision CHECK (grid_step > 0);
UPDATE mes.plant_version SET digest = ''; -- so that the next seeding gives the grids
COMMENT ON COLUMN mes.characteristic.grid_origin IS 'readings are summed as whole numbers q = round((reading - grid_origin) / grid_step)';
COMMENT ON COLUMN mes.characteristic.grid_step IS 'a power of two: one float32 step of the largest value that is expected; given once, when the characteristic is first seeded';

CREATE INDEX dirty_bucket_oldest ON mes.dirty_bucket (line_id, bucket);

CREATE TYPE kpi.grain AS ENUM ('bucket', 'hour', 'day');

CREATE TABLE kpi.station_sum (
    line_id         smallint NOT NULL,
    grain           kpi.grain NOT NULL,
    starts_at       timestamptz NOT NULL,
    station_id      smallint NOT NULL,
    pass            bigint NOT NULL,
    rework          bigint NOT NULL,
    scrap           bigint NOT NULL,
    inspected       bigint NOT NULL,
    first_pass_good bigint NOT NULL,
    passed          bigint NOT NULL,
    retests         bigint NOT NULL,
    cycle_bin       smallint[] NOT NULL,
    cycle_n         bigint[] NOT NULL,
    last_event_at   timestamptz NOT NULL,
    PRIMARY KEY (line_id, grain, starts_at, station_id)
);
COMMENT ON TABLE kpi.station_sum IS 'Sums of a station: of 5 minutes from its events, of an elapsed hour of the production day from those, of the day from its hours.';
COMMENT ON COLUMN kpi.station_sum.pass IS 'reports by result, with rework and scrap';
COMMENT ON COLUMN kpi.station_sum.inspected IS 'cells at their first attempt, each once a production day';
COMMENT ON COLUMN kpi.station_sum.first_pass_good IS 'of these, passed at it';
COMMENT ON COLUMN kpi.station_sum.passed IS 'cells that passed, each once a production day';
COMMENT ON COLUMN kpi.station_sum.retests IS 'reports of a cell after one that was no rework';
COMMENT ON COLUMN kpi.station_sum.cycle_bin IS 'occupied bins of the cycle time histogram: the upper bits of the float32 value (32 bins an octave)';

CREATE TABLE kpi.defect_sum (
    line_id   smallint NOT NULL,
    grain     kpi.grain NOT NULL,
    starts_at timestamptz NOT NULL,
    defect_id smallint NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (line_id, grain, starts_at, defect_id)
);

CREATE TABLE kpi.reading_sum (
    line_id     smallint NOT NULL,
    grain       kpi.grain NOT NULL,
    starts_at   timestamptz NOT NULL,
    station_id  smallint NOT NULL,
    slot        smallint NOT NULL,
    n           bigint NOT NULL,
    implausible bigint NOT NULL,
    total       numeric NOT NULL,
    squares     numeric NOT NULL,
    low         real,
    high        real,
    PRIMARY KEY (line_id, grain, starts_at, station_id, slot)
);
COMMENT ON TABLE kpi.reading_sum IS 'Moments of a characteristic as whole numbers on its grid: in any order and any grouping the same.';
COMMENT ON COLUMN kpi.reading_sum.implausible IS 'readings off the grid, in none of the other columns';

-- A row holds all machines of the line, by position in the arrays: a line has hundreds, a day has hundreds of buckets.
CREATE TABLE kpi.machine_sum (
    line_id    smallint NOT NULL,
    grain      kpi.grain NOT NULL,
    starts_at  timestamptz NOT NULL,
    machine_id integer[] NOT NULL,
    boot       integer[] NOT NULL,
    received   bigint[] NOT NULL,
    late       bigint[] NOT NULL,
    ahead      bigint[] NOT NULL,
    first_seq  bigint[] NOT NULL,
    last_seq   bigint[] NOT NULL,
    PRIMARY KEY (line_id, grain, starts_at)
);
CREATE TABLE kpi.machine_day (
    line_id        smallint NOT NULL,
    production_day date NOT NULL,
    machine_id     integer NOT NULL,
    boot           integer NOT NULL,
    received       bigint NOT NULL,
    late           bigint NOT NULL,
    ahead          bigint NOT NULL,
    first_seq      bigint NOT NULL,
    last_seq       bigint NOT NULL,
    PRIMARY KEY (line_id, production_day, machine_id, boot)
);
CREATE INDEX machine_day_by_seq ON kpi.machine_day (machine_id, boot, last_seq);
COMMENT ON COLUMN kpi.machine_day.late IS 'events that arrived after the production day had ended';
COMMENT ON COLUMN kpi.machine_day.ahead IS 'events whose time was more than five minutes ahead of ingest''s clock';

CREATE TABLE kpi.line_day (
    line_id            smallint NOT NULL,
    production_day     date NOT NULL,
    starts_at          timestamptz NOT NULL,
    ends_at            timestamptz NOT NULL,
    regular_s          double precision NOT NULL,
    scheduled_s        double precision NOT NULL,
    scheduled          tstzmultirange NOT NULL,
    events             bigint NOT NULL,
    started            bigint NOT NULL,
    good               bigint NOT NULL,
    scrap              bigint NOT NULL,
    unscrapped         bigint NOT NULL,
    unscrapped_booked  bigint NOT NULL,
    late               bigint NOT NULL,
    ahead              bigint NOT NULL,
    missing            bigint NOT NULL DEFAULT 0,
    quarantined        bigint NOT NULL DEFAULT 0,
    last_event_at      timestamptz,
    PRIMARY KEY (line_id, production_day)
);
COMMENT ON COLUMN kpi.line_day.regular_s IS 'planned time by the shift plan, seconds';
COMMENT ON COLUMN kpi.line_day.scheduled IS 'planned time less planned stops and holidays; scheduled_s are its seconds';
COMMENT ON COLUMN kpi.line_day.started IS 'cells that came off the first station for the first time';
COMMENT ON COLUMN kpi.line_day.good IS 'cells that passed the count point, the last station of the route';
COMMENT ON COLUMN kpi.line_day.unscrapped IS 'scrap of this day that was taken back, whenever that was';
COMMENT ON COLUMN kpi.line_day.unscrapped_booked IS 'scrap taken back that is booked on this day, of whatever day it was';
COMMENT ON COLUMN kpi.line_day.quarantined IS 'events that are known to be missing because they wait in the quarantine';

CREATE TABLE kpi.line_shift (
    line_id        smallint NOT NULL,
    production_day date NOT NULL,
    position       smallint NOT NULL,
    shift          text NOT NULL,
    starts_at      timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    events         bigint NOT NULL,
    good           bigint NOT NULL,
    scrap          bigint NOT NULL,
    last_event_at  timestamptz,
    PRIMARY KEY (line_id, production_day, position)
);

-- Duplicates by the time of the event, so that each has its production day.
CREATE TABLE mes.duplicate (
    machine_id integer NOT NULL REFERENCES mes.machine,
    bucket     timestamptz NOT NULL,
    n          bigint NOT NULL,
    PRIMARY KEY (machine_id, bucket)
);

-- Scrap that turned out to be none. The scrap event stays; what is counted less, and on which day, is said here.
CREATE TABLE mes.unscrap (
    machine_id   integer NOT NULL REFERENCES mes.machine,
    boot         integer NOT NULL,
    seq          bigint NOT NULL,
    line_id      smallint NOT NULL REFERENCES mes.line,
    unit         text NOT NULL,
    scrapped_at  timestamptz NOT NULL,
    booked_at    timestamptz NOT NULL,
    why          text NOT NULL CHECK (why <> ''),
    corrected_by text NOT NULL DEFAULT current_user,
    corrected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (machine_id, boot, seq)
);
CREATE INDEX unscrap_by_scrap ON mes.unscrap (line_id, scrapped_at);
CREATE INDEX unscrap_by_booking ON mes.unscrap (line_id, booked_at);
COMMENT ON TABLE mes.unscrap IS 'Corrections of scrap, by the identity of the scrap event.';
COMMENT ON COLUMN mes.unscrap.booked_at IS 'the time of the scrap while its production day was open, the time of the correction afterwards';

-- Figures of a production day as they were last reported. Closed is a fact: from then on a change is a restatement.
CREATE TABLE mes.day_report (
    line_id        smallint NOT NULL REFERENCES mes.line,
    production_day date NOT NULL,
    ends_at        timestamptz NOT NULL,
    good           bigint NOT NULL,
    scrap          bigint NOT NULL,
    events         bigint NOT NULL,
    version        integer NOT NULL DEFAULT 1,
    changed_at     timestamptz NOT NULL DEFAULT now(),
    closed_at      timestamptz,
    PRIMARY KEY (line_id, production_day)
);
CREATE INDEX day_report_open ON mes.day_report (ends_at) WHERE closed_at IS NULL;
COMMENT ON COLUMN mes.day_report.scrap IS 'after corrections of this day''s scrap';

CREATE TABLE mes.restatement (
    line_id        smallint NOT NULL,
    production_day date NOT NULL,
    version        integer NOT NULL,
    restated_at    timestamptz NOT NULL DEFAULT now(),
    good_before    bigint NOT NULL,
    good           bigint NOT NULL,
    scrap_before   bigint NOT NULL,
    scrap          bigint NOT NULL,
    events_before  bigint NOT NULL,
    events         bigint NOT NULL,
    PRIMARY KEY (line_id, production_day, version)
);

CREATE FUNCTION kpi.seconds(spans tstzmultirange) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0)::double precision FROM unnest(spans) AS span;
END;

-- A line's days with the target in force: cells a day, in proportion to what of the regular time is scheduled.
CREATE VIEW kpi.day AS
SELECT
    d.*,
    t.cells_per_day,
    t.days_per_year,
    round(t.cells_per_day * (d.scheduled_s / nullif(d.regular_s, 0)))::bigint AS target
FROM kpi.line_day d
LEFT JOIN LATERAL (
    SELECT cells_per_day, days_per_year FROM mes.target
    WHERE target.line_id = d.line_id AND target.from_day <= d.production_day
    ORDER BY from_day DESC LIMIT 1
) t ON true;

-- What machines have not delivered: numbers below the highest received that are neither received nor closed. A gap belongs
-- to the production day that first reaches beyond it; `production_day` is NULL where nothing behind it was understood.
CREATE VIEW kpi.gap AS
SELECT
    s.line_id, m.machine_id, g.boot, lower(r) AS first_seq, upper(r) - 1 AS last_seq, upper(r) - lower(r) AS n,
    coalesce(
        (SELECT d.production_day FROM kpi.machine_day d
         WHERE d.machine_id = m.machine_id AND d.boot = g.boot AND d.last_seq >= upper(r) ORDER BY d.last_seq LIMIT 1),
        (SELECT max(d.production_day) FROM kpi.machine_day d WHERE d.machine_id = m.machine_id AND d.boot = g.boot)
    ) AS production_day
FROM mes.station s JOIN mes.machine m USING (station_id) JOIN mes.machine_ledger g USING (machine_id)
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, upper(g.received))) - g.received - g.closed) AS r
WHERE NOT isempty(g.received);
