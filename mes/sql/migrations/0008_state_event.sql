-- States of machines, facts like cells: they share boot and seq with the cells of their machine, and so the ledger.
CREATE TYPE mes.packml_state AS ENUM (
    'stopped', 'resetting', 'idle', 'starting', 'execute', 'completing', 'complete', 'aborting', 'aborted', 'stopping', 'clearing',
    'suspending', 'suspended', 'unsuspending', 'holding', 'held', 'unholding'
);
COMMENT ON TYPE mes.packml_state IS 'States of ISA-TR88.00.02 by name: two numberings of them are in the field.';

CREATE TABLE mes.state_event (
    at          timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    seq         bigint NOT NULL,
    machine_id  integer NOT NULL,
    boot        integer NOT NULL,
    line_id     smallint NOT NULL,
    station_id  smallint NOT NULL,
    state       mes.packml_state NOT NULL,
    reason      text,
    PRIMARY KEY (line_id, at, machine_id, boot, seq)
);
CREATE INDEX state_event_machine ON mes.state_event (machine_id, at);
COMMENT ON TABLE mes.state_event IS 'A machine has changed its state. Identity and key as of mes.cell_event.';
COMMENT ON COLUMN mes.state_event.at IS 'begin of the state, by the machine''s clock; it lasts until the machine''s next one';
COMMENT ON COLUMN mes.state_event.reason IS 'why, by the machine; NULL where it says nothing';
