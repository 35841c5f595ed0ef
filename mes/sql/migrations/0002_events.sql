-- Facts, append only. Eight-byte columns first, so that a row carries no padding.
CREATE TABLE mes.cell_event (
    at          timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    seq         bigint NOT NULL,
    machine_id  integer NOT NULL,
    boot        integer NOT NULL,
    channel     integer NOT NULL,
    cycle_s     real NOT NULL,
    line_id     smallint NOT NULL,
    station_id  smallint NOT NULL,
    attempt     smallint NOT NULL,
    result      smallint NOT NULL,
    defect_id   smallint NOT NULL,
    unit        text NOT NULL,
    meas        real[] NOT NULL,
    lots        jsonb,
    PRIMARY KEY (line_id, at, machine_id, boot, seq)
);
COMMENT ON TABLE mes.cell_event IS 'One cell finished at one machine. Identity: machine, boot, seq. The key begins with line and time: a bucket is one stretch of it, a hypertable needs the time in it, and neither changes on redelivery.';
COMMENT ON COLUMN mes.cell_event.at IS 'completion, by the machine''s clock';
COMMENT ON COLUMN mes.cell_event.channel IS 'slot in a cabinet, oven or chamber; -1 where the machine has none';
COMMENT ON COLUMN mes.cell_event.result IS '0 pass, 1 rework, 2 scrap';
COMMENT ON COLUMN mes.cell_event.defect_id IS '0 for none';
COMMENT ON COLUMN mes.cell_event.meas IS 'readings by mes.characteristic.slot + 1; NaN where not measured';
CREATE INDEX cell_event_unit ON mes.cell_event (unit);

-- What has been received from each machine: the sequence numbers of a boot as ranges, one range where nothing is missing.
-- It changes in the transaction of the rows, so it is the exact memory of what is a duplicate.
CREATE TABLE mes.machine_ledger (
    machine_id integer NOT NULL REFERENCES mes.machine,
    boot       integer NOT NULL,
    received   int8multirange NOT NULL,
    duplicates bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (machine_id, boot)
) WITH (fillfactor = 50);

-- Buckets whose rows have changed since they were summed. Rows are only inserted and deleted, never updated and never
-- unique: a mark that stands already cannot swallow a new one whose rows a running rollup does not see yet.
CREATE TABLE mes.dirty_bucket (
    mark_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    line_id smallint NOT NULL,
    bucket  timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE mes.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    times         integer NOT NULL DEFAULT 1,
    reason        text NOT NULL,
    detail        text NOT NULL,
    topic         text NOT NULL,
    payload       bytea NOT NULL,
    machine_id    integer REFERENCES mes.machine,
    boot          integer,
    seq           bigint,
    digest        bytea NOT NULL UNIQUE
);
COMMENT ON TABLE mes.quarantine IS 'What could not be understood, whole: topic, bytes, reason. The same bytes on the same topic are one row, seen so many times.';

-- When a broker was last known to keep the persistent session of a line.
CREATE TABLE mes.line_session (
    line_id        smallint PRIMARY KEY REFERENCES mes.line,
    established_at timestamptz NOT NULL DEFAULT now()
);
