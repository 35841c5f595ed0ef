-- In one transaction: the files cells, states and rejects of the working folder into the database. `put-back` calls it.
CREATE TEMP TABLE cells (LIKE mes.cell_event) ON COMMIT DROP;
CREATE TEMP TABLE states (LIKE mes.state_event) ON COMMIT DROP;
CREATE TEMP TABLE rejects (LIKE mes.quarantine) ON COMMIT DROP;
ALTER TABLE rejects ALTER quarantine_id DROP NOT NULL;
\copy cells (at, received_at, seq, machine_id, boot, channel, cycle_s, line_id, station_id, attempt, result, defect_id, unit, meas, lots) FROM 'cells'
\copy states (at, received_at, seq, machine_id, boot, line_id, station_id, state, reason) FROM 'states'
\copy rejects (first_seen_at, last_seen_at, times, reason, detail, topic, payload, machine_id, boot, seq, digest, counted) FROM 'rejects'

-- What was discarded by hand, or has been understood since, stays away.
DELETE FROM rejects r
WHERE EXISTS (SELECT FROM mes.quarantine_discarded d WHERE d.digest = r.digest)
    OR (counted AND EXISTS (SELECT FROM mes.machine_ledger g WHERE g.machine_id = r.machine_id AND g.boot = r.boot AND g.received @> r.seq));

CREATE TEMP TABLE added ON COMMIT DROP AS SELECT line_id, at FROM mes.cell_event WHERE false;
WITH new AS (
    INSERT INTO mes.cell_event (:cells) SELECT :cells FROM cells ON CONFLICT DO NOTHING RETURNING line_id, at
)
INSERT INTO added SELECT line_id, at FROM new;
INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT DISTINCT line_id, date_bin('5 minutes', at, 'epoch'::timestamptz) FROM added;

CREATE TEMP TABLE counts (what text, n bigint) ON COMMIT DROP;
INSERT INTO counts SELECT 'events', count(*) FROM added;
WITH new AS (
    INSERT INTO mes.state_event (:states) SELECT :states FROM states ON CONFLICT DO NOTHING RETURNING 1
)
INSERT INTO counts SELECT 'states', count(*) FROM new;
WITH new AS (
    INSERT INTO mes.quarantine (:rejects) SELECT :rejects FROM rejects ON CONFLICT DO NOTHING RETURNING 1
)
INSERT INTO counts SELECT 'quarantined', count(*) FROM new;

-- The ledger last and in the order of its key, as ingest does it.
INSERT INTO mes.machine_ledger AS g (machine_id, boot, received)
SELECT machine_id, boot, range_agg(int8range(seq, seq + 1))
FROM (
    SELECT machine_id, boot, seq FROM cells
    UNION SELECT machine_id, boot, seq FROM states
    UNION SELECT machine_id, boot, seq FROM rejects WHERE counted
) AS x
GROUP BY machine_id, boot ORDER BY machine_id, boot
ON CONFLICT (machine_id, boot) DO UPDATE SET received = g.received + EXCLUDED.received;
NOTIFY mes_marks;
SELECT 'put back: ' || string_agg(n || ' ' || what, ', ') FROM counts;
