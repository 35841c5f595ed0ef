-- The plant as `mes seed` last loaded it. Codes are natural keys; ids are short, never reused, and never change meaning.
CREATE TABLE mes.site (
    site_id   smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code      text NOT NULL UNIQUE,
    name      text NOT NULL,
    zone      text NOT NULL,
    day_start time NOT NULL,
    source    text NOT NULL
);

CREATE TABLE mes.shift (
    site_id  smallint NOT NULL REFERENCES mes.site,
    position smallint NOT NULL,
    name     text NOT NULL,
    starts   time NOT NULL,
    ends     time NOT NULL,
    PRIMARY KEY (site_id, position)
);

CREATE TABLE mes.product (
    product_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code       text NOT NULL UNIQUE,
    name       text NOT NULL,
    energy_wh  double precision NOT NULL CHECK (energy_wh > 0),
    source     text NOT NULL
);

CREATE TABLE mes.line (
    line_id    smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id    smallint NOT NULL REFERENCES mes.site,
    area       text NOT NULL,
    code       text NOT NULL,
    path       text NOT NULL UNIQUE,
    name       text NOT NULL,
    product_id smallint NOT NULL REFERENCES mes.product,
    active     boolean NOT NULL DEFAULT true,
    UNIQUE (site_id, code)
);

CREATE TABLE mes.station (
    station_id     smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    line_id        smallint NOT NULL REFERENCES mes.line,
    code           text NOT NULL,
    seq            integer NOT NULL,
    name           text NOT NULL,
    section        text NOT NULL,
    kind           text NOT NULL,
    cycle_s        double precision NOT NULL,
    is_count_point boolean NOT NULL,
    active         boolean NOT NULL DEFAULT true,
    UNIQUE (line_id, code)
);
CREATE UNIQUE INDEX one_count_point ON mes.station (line_id) WHERE is_count_point;

CREATE TABLE mes.machine (
    machine_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    station_id smallint NOT NULL REFERENCES mes.station,
    code       text NOT NULL,
    active     boolean NOT NULL DEFAULT true,
    UNIQUE (station_id, code)
);

CREATE TABLE mes.defect (
    defect_id  smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    station_id smallint NOT NULL REFERENCES mes.station,
    code       text NOT NULL,
    name       text NOT NULL,
    UNIQUE (station_id, code)
);

-- `slot` is the place of the reading in mes.cell_event.meas: once given, a slot keeps its characteristic.
CREATE TABLE mes.characteristic (
    station_id smallint NOT NULL REFERENCES mes.station,
    slot       smallint NOT NULL,
    name       text NOT NULL,
    unit       text NOT NULL,
    nominal    double precision NOT NULL,
    lsl        double precision,
    usl        double precision,
    PRIMARY KEY (station_id, slot),
    UNIQUE (station_id, name)
);

CREATE TABLE mes.target (
    line_id       smallint NOT NULL REFERENCES mes.line,
    from_day      date NOT NULL,
    cells_per_day integer NOT NULL CHECK (cells_per_day >= 0),
    gwh_per_year  double precision NOT NULL,
    days_per_year double precision NOT NULL,
    source        text NOT NULL,
    PRIMARY KEY (line_id, from_day)
);

CREATE TABLE mes.site_capacity (
    site_id      smallint NOT NULL REFERENCES mes.site,
    phase        text NOT NULL,
    from_day     date NOT NULL,
    gwh_per_year double precision NOT NULL,
    source       text NOT NULL,
    PRIMARY KEY (site_id, phase)
);

-- When the plant was seeded: services begin anew when the version rises.
CREATE TABLE mes.plant_version (
    version   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seeded_at timestamptz NOT NULL DEFAULT now(),
    digest    text NOT NULL
);
