-- What a machine holds, so that what a station can make at most is known where its figures are.
ALTER TABLE mes.station
    ADD COLUMN cells_per_cycle integer NOT NULL DEFAULT 1 CHECK (cells_per_cycle > 0),
    ADD COLUMN positions integer NOT NULL DEFAULT 1 CHECK (positions > 0);
UPDATE mes.plant_version SET digest = ''; -- so that the next seeding gives them
COMMENT ON COLUMN mes.station.cells_per_cycle IS 'cells that leave a machine together, every cycle_s';
COMMENT ON COLUMN mes.station.positions IS 'cells that stay in a machine side by side, each for cycle_s (dwell)';
