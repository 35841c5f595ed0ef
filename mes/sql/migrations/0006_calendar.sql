-- The calendar of a site as `mes seed` last loaded it: plans of shifts, each in force from a production day on.
ALTER TABLE mes.shift ADD COLUMN from_day date NOT NULL DEFAULT '0001-01-01';
ALTER TABLE mes.shift ALTER COLUMN from_day DROP DEFAULT;
ALTER TABLE mes.shift DROP CONSTRAINT shift_pkey;
ALTER TABLE mes.shift ADD PRIMARY KEY (site_id, from_day, position);
COMMENT ON TABLE mes.shift IS 'Shifts in the order of the day; those with the same from_day are one plan, in force until the next.';
COMMENT ON COLUMN mes.shift.from_day IS 'production day; 0001-01-01 where it has always been so';

CREATE TABLE mes.shift_break (
    site_id  smallint NOT NULL,
    from_day date NOT NULL,
    position smallint NOT NULL,
    starts   time NOT NULL,
    ends     time NOT NULL,
    PRIMARY KEY (site_id, from_day, position, starts),
    FOREIGN KEY (site_id, from_day, position) REFERENCES mes.shift ON DELETE CASCADE
);

CREATE TABLE mes.holiday (
    site_id        smallint NOT NULL REFERENCES mes.site,
    production_day date NOT NULL,
    name           text NOT NULL,
    PRIMARY KEY (site_id, production_day)
);

CREATE TABLE mes.planned_stop (
    planned_stop_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id         smallint NOT NULL REFERENCES mes.site,
    line_id         smallint REFERENCES mes.line,
    begins          timestamptz NOT NULL,
    ends            timestamptz NOT NULL CHECK (ends > begins),
    reason          text NOT NULL
);
COMMENT ON COLUMN mes.planned_stop.line_id IS 'NULL for every line of the site';
