-- What a machine holds, so that what a station can make at most is known where its figures are.
ALTER TABLE mes.station
    ADD COLUMN cells_per_cycle integer NOT NULL DEFAULT 1 CHECK (cells_per_cycle > 0),
    ADD COLUMN positions integer NOT NULL DEFAULT 1 CHECK (positions > 0);
UPDATE mes.plant_version SET digest = ''; -- so that the next seeding gives them
COMMENT ON COLUMN mes.station.cells_per_cycle IS 'cells that leave a machine together, every cycle_s';
COMMENT ON COLUMN mes.station.positions IS 'cells that stay in a machine side by side, each for cycle_s (dwell)';

-- When somebody is to be told, by line: as `mes seed` last loaded it.
CREATE TABLE mes.alert_rule (
    line_id  smallint NOT NULL REFERENCES mes.line,
    name     text NOT NULL,
    raise_at double precision NOT NULL,
    clear_at double precision NOT NULL,
    hold_s   double precision NOT NULL CHECK (hold_s >= 0),
    least    bigint NOT NULL CHECK (least >= 0),
    source   text NOT NULL,
    PRIMARY KEY (line_id, name)
);
COMMENT ON COLUMN mes.alert_rule.hold_s IS 'for how long a threshold must be passed before the alert is raised, and before it is cleared, seconds';
COMMENT ON COLUMN mes.alert_rule.least IS 'cells below which nothing is judged';

-- Each alert as it is: whichever rollup looks, it goes on from here.
CREATE TABLE mes.alert (
    line_id       smallint NOT NULL REFERENCES mes.line,
    name          text NOT NULL,
    state         text NOT NULL CHECK (state IN ('raised', 'cleared')),
    since         timestamptz NOT NULL,
    pending_since timestamptz,
    reason        text NOT NULL,
    said_at       timestamptz NOT NULL,
    PRIMARY KEY (line_id, name)
);
COMMENT ON COLUMN mes.alert.pending_since IS 'since when the threshold of the other state has been passed; NULL while it is not';
COMMENT ON COLUMN mes.alert.reason IS 'the figures behind the state, in words, as of said_at';

CREATE TABLE mes.alert_history (
    alert_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    line_id      smallint NOT NULL REFERENCES mes.line,
    name         text NOT NULL,
    raised_at    timestamptz NOT NULL,
    reason       text NOT NULL,
    cleared_at   timestamptz,
    clear_reason text
);
CREATE UNIQUE INDEX alert_raised_once ON mes.alert_history (line_id, name) WHERE cleared_at IS NULL;
CREATE INDEX alert_by_time ON mes.alert_history (line_id, raised_at);
