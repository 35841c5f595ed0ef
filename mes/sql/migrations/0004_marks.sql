-- Sequence numbers that no machine will ever send: closed by hand, so that a machine's mark can pass them. They stay
-- apart from `received`: closed is not received, and an event that turns up all the same is stored as any other.
ALTER TABLE mes.machine_ledger ADD COLUMN closed int8multirange NOT NULL DEFAULT '{}';

CREATE TABLE mes.gap_closing (
    closing_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    machine_id integer NOT NULL REFERENCES mes.machine,
    boot       integer NOT NULL,
    seqs       int8multirange NOT NULL,
    why        text NOT NULL CHECK (why <> ''),
    closed_by  text NOT NULL DEFAULT current_user,
    closed_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE mes.gap_closing IS 'Who has closed which gap of a machine, when and why.';

-- What the broker's session of a line subscribes to, so that a later version can take back what it no longer wants.
ALTER TABLE mes.line_session ADD COLUMN filters text[] NOT NULL DEFAULT '{}';

-- Tells this database from any other, so that two backends with a database each notice when they meet at one broker.
CREATE TABLE mes.installation (
    installation_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    only_one        boolean NOT NULL DEFAULT true UNIQUE CHECK (only_one)
);
INSERT INTO mes.installation DEFAULT VALUES;
