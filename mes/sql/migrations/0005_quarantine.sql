-- Whether the ledger has learnt the identity (machine, boot, seq) from this entry: then no event with it has been stored,
-- and a replay stores this one. Any other entry with that identity is a duplicate, as it would be among good events.
ALTER TABLE mes.quarantine ADD COLUMN counted boolean NOT NULL DEFAULT false;
UPDATE mes.quarantine SET counted = true
WHERE quarantine_id IN (SELECT min(quarantine_id) FROM mes.quarantine WHERE boot IS NOT NULL GROUP BY machine_id, boot, seq);

CREATE TABLE mes.quarantine_discarded (
    quarantine_id bigint PRIMARY KEY,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    times         integer NOT NULL,
    reason        text NOT NULL,
    detail        text NOT NULL,
    topic         text NOT NULL,
    bytes         integer NOT NULL,
    machine_id    integer REFERENCES mes.machine,
    boot          integer,
    seq           bigint,
    digest        bytea NOT NULL,
    why           text NOT NULL CHECK (why <> ''),
    discarded_by  text NOT NULL DEFAULT current_user,
    discarded_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE mes.quarantine_discarded IS 'What was thrown out of the quarantine by hand: all but the bytes, and who did it, when and why.';
COMMENT ON COLUMN mes.quarantine_discarded.digest IS 'SHA-256 of topic, NUL, payload';
