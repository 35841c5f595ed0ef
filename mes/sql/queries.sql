-- Named statements: each has a line that says what it is for.

-- name: active_lines
-- Lines that ingest holds sessions for.
SELECT l.line_id, s.code, l.area, l.code
FROM mes.line l JOIN mes.site s USING (site_id)
WHERE l.active ORDER BY l.path

-- name: calendars
-- The whole calendar of each line, or of one, as of one moment: shifts in order, holidays, and stops of the line or its site.
SELECT l.line_id, l.path, s.zone, s.day_start,
    (SELECT coalesce(json_agg(json_build_object(
            'since', f.from_day, 'name', f.name, 'start', f.starts, 'end', f.ends, 'breaks', (
                SELECT coalesce(json_agg(json_build_array(b.starts, b.ends) ORDER BY (b.starts < s.day_start), b.starts), '[]')
                FROM mes.shift_break b WHERE (b.site_id, b.from_day, b.position) = (f.site_id, f.from_day, f.position)
            )) ORDER BY f.from_day, f.position), '[]')
     FROM mes.shift f WHERE f.site_id = s.site_id),
    (SELECT coalesce(json_agg(h.production_day), '[]') FROM mes.holiday h WHERE h.site_id = s.site_id),
    (SELECT coalesce(json_agg(json_build_array(p.begins, p.ends) ORDER BY p.begins, p.ends), '[]')
     FROM mes.planned_stop p WHERE p.site_id = s.site_id AND coalesce(p.line_id, l.line_id) = l.line_id)
FROM mes.line l JOIN mes.site s USING (site_id)
WHERE %(path)s::text IS NULL OR l.path = %(path)s

-- name: plant_version
-- Raised by each seeding.
SELECT coalesce(max(version), 0) FROM mes.plant_version

-- name: equipment
-- A line's stations with readings by slot, defects by code, and machines.
SELECT
    s.station_id, s.code,
    coalesce((SELECT array_agg(c.name ORDER BY c.slot) FROM mes.characteristic c WHERE c.station_id = s.station_id), '{}'),
    coalesce((SELECT jsonb_object_agg(d.code, d.defect_id) FROM mes.defect d WHERE d.station_id = s.station_id), '{}'),
    array_agg(m.machine_id ORDER BY m.machine_id), array_agg(m.code ORDER BY m.machine_id)
FROM mes.station s JOIN mes.machine m USING (station_id)
WHERE s.line_id = %s
GROUP BY s.station_id

-- name: announce_session
-- From now on the broker keeps what is published for this line.
INSERT INTO mes.line_session (line_id, filters) VALUES (%s, %s)
ON CONFLICT (line_id) DO UPDATE SET established_at = now(), filters = EXCLUDED.filters

-- name: session_filters
-- What the line's session was last known to subscribe to.
SELECT unnest(filters) FROM mes.line_session WHERE line_id = %s

-- name: lines_without_session
-- Lines whose machines should still wait.
SELECT l.path FROM mes.line l LEFT JOIN mes.line_session s ON s.line_id = l.line_id AND s.established_at >= %s
WHERE l.active AND s.line_id IS NULL ORDER BY l.path

-- name: ledger
-- What each machine of a line has delivered.
SELECT g.machine_id, g.boot, g.received
FROM mes.machine_ledger g JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id)
WHERE s.line_id = %s

-- name: add_to_ledger
-- Unite what a batch brought with what was there: in any order, twice or from two places, the ranges come out the same.
INSERT INTO mes.machine_ledger AS g (machine_id, boot, received, duplicates)
SELECT * FROM unnest(%s::integer[], %s::integer[], %s::int8multirange[], %s::bigint[])
ON CONFLICT (machine_id, boot) DO UPDATE
SET received = g.received + EXCLUDED.received, duplicates = g.duplicates + EXCLUDED.duplicates

-- name: database
-- Which database this is, by whatever address it is reached: its name, its server, and what tells a copy on another server.
SELECT current_database() || ' (' || system_identifier || ', ' || installation_id || ')' FROM mes.installation, pg_control_system()

-- name: marks
-- How far each machine of a line is committed without a gap, in its highest boot; 0 where that begins with a gap.
SELECT m.machine_id, g.boot, coalesce((SELECT upper(r) - 1 FROM unnest(g.received + g.closed) AS r WHERE lower(r) = 1), 0)
FROM mes.station s JOIN mes.machine m USING (station_id)
CROSS JOIN LATERAL (
    SELECT boot, received, closed FROM mes.machine_ledger WHERE machine_id = m.machine_id ORDER BY boot DESC LIMIT 1
) g
WHERE s.line_id = %s

-- name: promises_not_kept
-- Which marks (all of a boot up to a number is committed) the ledger does not bear out, and how far it does.
SELECT k.machine_id, k.boot, k.seq, coalesce((SELECT upper(r) - 1 FROM unnest(g.received + g.closed) AS r WHERE lower(r) = 1), 0)
FROM unnest(%s::integer[], %s::integer[], %s::bigint[]) AS k (machine_id, boot, seq) LEFT JOIN mes.machine_ledger g USING (machine_id, boot)
WHERE k.seq > 0 AND NOT coalesce(g.received + g.closed, '{}') @> int8multirange(int8range(1, k.seq + 1))

-- name: machine_gaps
-- Sequence numbers up to the highest received that are neither received nor closed.
SELECT l.path || '/' || s.code || '/' || m.code, g.boot, r
FROM mes.machine_ledger g JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, upper(g.received))) - g.received - g.closed) AS r
WHERE (%(line)s::text IS NULL OR l.path = %(line)s) AND NOT isempty(g.received)
ORDER BY l.path, s.seq, m.code, g.boot, r

-- name: machine_by_path
-- The machine that a path of codes names.
SELECT m.machine_id FROM mes.machine m JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
WHERE l.path || '/' || s.code || '/' || m.code = %s

-- name: received_by_boot
-- What one boot of a machine has delivered, and what of it is closed; locked until the transaction ends.
SELECT received, closed FROM mes.machine_ledger WHERE machine_id = %s AND boot = %s FOR UPDATE

-- name: begin_ledger
-- A boot of which nothing has come.
INSERT INTO mes.machine_ledger (machine_id, boot, received) VALUES (%(machine)s, %(boot)s, '{}') ON CONFLICT DO NOTHING

-- name: close_gap
-- From now on nobody waits for these.
UPDATE mes.machine_ledger SET closed = closed + %(seqs)s WHERE machine_id = %(machine)s AND boot = %(boot)s

-- name: record_closing
-- Who closed what, and why.
INSERT INTO mes.gap_closing (machine_id, boot, seqs, why) VALUES (%(machine)s, %(boot)s, %(seqs)s, %(why)s)

-- name: closings
-- Gaps closed by hand, newest first.
SELECT l.path || '/' || s.code || '/' || m.code, c.boot, c.seqs::text, c.why, c.closed_by, c.closed_at
FROM mes.gap_closing c JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
WHERE %(line)s::text IS NULL OR l.path = %(line)s
ORDER BY c.closing_id DESC

-- name: mark_buckets
-- Buckets whose rows this transaction changes.
INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT %s::smallint, to_timestamp(at) FROM unnest(%s::double precision[]) AS at

-- name: add_states
-- States of machines; returns the identities of those that were not there.
INSERT INTO mes.state_event (at, received_at, seq, machine_id, boot, line_id, station_id, state, reason)
SELECT * FROM unnest(%s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::integer[], %s::integer[], %s::smallint[], %s::smallint[],
    %s::text[]::mes.packml_state[], %s::text[])
ON CONFLICT DO NOTHING RETURNING machine_id, boot, seq

-- name: count_duplicates
-- Duplicates by machine and the bucket of their time.
INSERT INTO mes.duplicate AS d (machine_id, bucket, n)
SELECT m, to_timestamp(at), n FROM unnest(%s::integer[], %s::double precision[], %s::bigint[]) AS x (m, at, n)
ON CONFLICT (machine_id, bucket) DO UPDATE SET n = d.n + EXCLUDED.n

-- name: stored_events
-- Which of these events of a line the table holds.
SELECT e.machine_id, e.boot, e.seq
FROM unnest(%s::timestamptz[], %s::integer[], %s::integer[], %s::bigint[]) AS k (at, machine_id, boot, seq)
CROSS JOIN LATERAL (
    SELECT c.machine_id, c.boot, c.seq FROM mes.cell_event c
    WHERE (c.line_id, c.at, c.machine_id, c.boot, c.seq) = (%s::smallint, k.at, k.machine_id, k.boot, k.seq)
        AND c.at >= %s AND c.at <= %s -- the first and the last of these times: other chunks are not looked at
    OFFSET 0 -- key by key: a plan by time would read all that lies between the two
) AS e

-- name: quarantine
-- Keep rejects whole; the same bytes on the same topic are counted, not repeated, and the latest verdict stands.
INSERT INTO mes.quarantine AS q (reason, detail, topic, payload, machine_id, boot, seq, counted, digest)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (digest) DO UPDATE SET last_seen_at = now(), times = q.times + 1, reason = EXCLUDED.reason, detail = EXCLUDED.detail,
    machine_id = EXCLUDED.machine_id, boot = EXCLUDED.boot, seq = EXCLUDED.seq, counted = q.counted OR EXCLUDED.counted

-- name: quarantined
-- Entries that wait, newest first, without their bytes.
SELECT quarantine_id, first_seen_at, last_seen_at, times, reason, detail, topic, boot, seq, octet_length(payload) AS bytes
FROM mes.quarantine
WHERE (%(line)s::text IS NULL OR starts_with(topic, %(line)s)) AND (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(since)s::timestamptz IS NULL OR last_seen_at >= %(since)s)
ORDER BY quarantine_id DESC LIMIT %(most)s

-- name: discarded
-- Entries that were discarded, latest first.
SELECT quarantine_id, discarded_at, discarded_by, why, times, reason, detail, topic, boot, seq, bytes, encode(digest, 'hex') AS digest
FROM mes.quarantine_discarded
WHERE (%(line)s::text IS NULL OR starts_with(topic, %(line)s)) AND (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(since)s::timestamptz IS NULL OR discarded_at >= %(since)s)
ORDER BY discarded_at DESC, quarantine_id DESC LIMIT %(most)s

-- name: quarantined_entry
-- All of one entry.
SELECT q.quarantine_id, q.reason, q.detail, q.topic, l.path || '/' || s.code || '/' || m.code AS machine, q.boot, q.seq, q.times,
    q.first_seen_at, q.last_seen_at, encode(q.digest, 'hex') AS digest, octet_length(q.payload) AS bytes, q.payload
FROM mes.quarantine q LEFT JOIN mes.machine m USING (machine_id) LEFT JOIN mes.station s USING (station_id) LEFT JOIN mes.line l USING (line_id)
WHERE q.quarantine_id = %s

-- name: quarantined_ids
-- Entries by number, by line, by reason, in order of arrival.
SELECT quarantine_id FROM mes.quarantine
WHERE (%(ids)s::bigint[] IS NULL OR quarantine_id = ANY(%(ids)s)) AND (%(line)s::text IS NULL OR starts_with(topic, %(line)s))
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)
ORDER BY quarantine_id

-- name: quarantined_payloads
-- Entries to be decoded anew; bytes that are too many for any message stay where they are.
SELECT quarantine_id, times, reason, detail, topic, machine_id, boot, seq, counted, (extract(epoch FROM first_seen_at) * 1000000)::bigint,
    CASE WHEN octet_length(payload) <= %(most)s THEN payload END
FROM mes.quarantine WHERE quarantine_id = ANY(%(ids)s) ORDER BY quarantine_id

-- name: close_quarantined
-- Entries that have been understood, unless one was seen again or closed since it was read.
DELETE FROM mes.quarantine q USING unnest(%s::bigint[], %s::integer[]) AS k (quarantine_id, times)
WHERE q.quarantine_id = k.quarantine_id AND q.times = k.times

-- name: judge_quarantined
-- The verdict of today on entries that stay.
UPDATE mes.quarantine q
SET reason = v.reason, detail = v.detail, machine_id = v.machine_id, boot = v.boot, seq = v.seq, counted = v.counted
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::integer[], %s::integer[], %s::bigint[], %s::boolean[])
    AS v (quarantine_id, reason, detail, machine_id, boot, seq, counted)
WHERE q.quarantine_id = v.quarantine_id

-- name: discard_quarantined
-- Throw the bytes away, and keep the rest beside who, when and why.
WITH gone AS (DELETE FROM mes.quarantine WHERE quarantine_id = ANY(%(ids)s) RETURNING *)
INSERT INTO mes.quarantine_discarded
    (quarantine_id, first_seen_at, last_seen_at, times, reason, detail, topic, bytes, machine_id, boot, seq, digest, why)
SELECT quarantine_id, first_seen_at, last_seen_at, times, reason, detail, topic, octet_length(payload), machine_id, boot, seq, digest, %(why)s
FROM gone

-- name: timescaledb
-- What the server and this database have of TimescaleDB. Its loader, not the extension, knows disable_load.
SELECT split_part(current_setting('server_version'), ' ', 1),
    (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
    current_setting('timescaledb.license', true), current_setting('timescaledb.disable_load', true) IS NOT NULL,
    current_database(), current_user

-- name: chunks_by
-- The version of TimescaleDB in whose chunks the events lie; NULL where they lie in a plain table.
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')
WHERE EXISTS (SELECT FROM pg_inherits WHERE inhparent = to_regclass('mes.cell_event'))

-- name: path_to_timescaledb
-- Have its functions in the search path until the transaction ends.
SELECT set_config('search_path', 'pg_catalog, ' || extnamespace::regnamespace, true) FROM pg_extension WHERE extname = 'timescaledb'

-- name: hypertable
-- A row where a table of ours is one.
SELECT num_dimensions FROM timescaledb_information.hypertables WHERE hypertable_schema = 'mes' AND hypertable_name = %s

-- name: make_hypertable
-- Cut a table into chunks of a day, the rows that it holds too. Its key begins with line and time: no other index is needed.
SELECT create_hypertable(%s::regclass, by_range('at', INTERVAL '1 day'), create_default_indexes => false, migrate_data => true)

-- name: compression
-- Whether a table may be compressed, and after how many days that is done.
SELECT h.compression_enabled, (
    SELECT extract(day FROM (j.config ->> 'compress_after')::interval)::integer FROM timescaledb_information.jobs j
    WHERE j.proc_name = 'policy_compression' AND (j.hypertable_schema, j.hypertable_name) = (h.hypertable_schema, h.hypertable_name)
)
FROM timescaledb_information.hypertables h WHERE h.hypertable_schema = 'mes' AND h.hypertable_name = %s

-- name: retention_job
-- A row where TimescaleDB has the job that drops events.
SELECT job_id FROM timescaledb_information.jobs WHERE proc_schema = 'mes' AND proc_name = 'run_retention'

-- name: retention
-- How long events are kept, after how many days they are compressed, and from when on they are there.
SELECT keep_days, compress_days, horizon FROM mes.retention

-- name: keep_events
-- From now on events are kept so many days; NULL: for ever.
UPDATE mes.retention SET keep_days = %s

-- name: compress_events
-- From now on events are compressed after so many days; NULL: no more of them.
UPDATE mes.retention SET compress_days = %s

-- name: droppable
-- Up to where events could go now if so many days were kept, and up to where age alone would let them.
SELECT mes.droppable(%(keep)s::integer), date_trunc('day', now() - %(keep)s::integer * interval '24 hours', 'UTC')

-- name: keeps_from_going
-- Per line the first production day before an instant that is not closed, and the oldest mark before it.
SELECT l.path,
    (SELECT min(d.production_day) FROM kpi.line_day d LEFT JOIN mes.day_report r USING (line_id, production_day)
     WHERE d.line_id = l.line_id AND d.starts_at < %(upto)s AND r.closed_at IS NULL),
    (SELECT min(m.bucket) FROM mes.dirty_bucket m WHERE m.line_id = l.line_id AND m.bucket < %(upto)s)
FROM mes.line l ORDER BY l.path

-- name: advance_horizon
-- Say that events before are about to go, as far as settings, closed days and marks let it.
SELECT mes.advance_horizon()

-- name: drop_events
-- Drop one day of them; its end, or NULL.
SELECT mes.drop_events()

-- name: dropped
-- What was dropped, latest first.
SELECT begins, ends, dropped_at, dropped_by FROM mes.dropped ORDER BY ends DESC LIMIT %s

-- name: hold_events
-- Keep events of a line from being dropped until the transaction ends; from when on they are there, NULL for ever.
SELECT mes.hold_events(%s::smallint)

-- name: horizon
-- From when on the events of a line are there.
SELECT coalesce((SELECT horizon FROM mes.line_horizon WHERE line_id = %s), (SELECT horizon FROM mes.retention))

-- name: days_without_events
-- Production days of a line, within a range, whose events are gone: how many, first and last.
SELECT count(*), min(production_day), max(production_day) FROM kpi.line_day
WHERE line_id = %(line)s AND ends_at <= %(horizon)s AND production_day BETWEEN coalesce(%(first)s, production_day) AND coalesce(%(last)s, production_day)

-- name: can_be_summed_up
-- Whether the day of a line has the sums that its events left, or had none.
SELECT EXISTS (SELECT FROM kpi.station_sum WHERE line_id = %(line)s AND grain = 'day' AND starts_at = %(begin)s)
    OR NOT EXISTS (SELECT FROM kpi.line_day WHERE line_id = %(line)s AND production_day = %(day)s AND events > 0)

-- name: marked_buckets
-- How many buckets wait for a rollup.
SELECT count(DISTINCT (line_id, bucket)) FROM mes.dirty_bucket

-- name: marks_waiting
-- Buckets that wait, and the numbers of the oldest and the newest mark, 0 where there is none.
SELECT count(DISTINCT (line_id, bucket)), coalesce(min(mark_id), 0), coalesce(max(mark_id), 0) FROM mes.dirty_bucket

-- name: oldest_mark
-- The oldest bucket of a line that waits, between two instants.
SELECT bucket FROM mes.dirty_bucket WHERE line_id = %s AND bucket >= %s AND bucket < %s ORDER BY bucket LIMIT 1

-- name: newest_mark
-- The newest bucket of a line that waits.
SELECT bucket FROM mes.dirty_bucket WHERE line_id = %s ORDER BY bucket DESC LIMIT 1

-- name: take_turn
-- The line, as one of many, and the day for oneself, until the transaction ends.
SELECT pg_try_advisory_xact_lock_shared(%(turn)s::integer, %(line)s::integer) AND pg_try_advisory_xact_lock(%(day)s::bigint)

-- name: take_marks
-- The marks of a stretch of time that nobody else has taken: whoever deletes them owes the sums of their buckets.
WITH taken AS (
    DELETE FROM mes.dirty_bucket WHERE mark_id IN (
        SELECT mark_id FROM mes.dirty_bucket WHERE line_id = %s AND bucket >= %s AND bucket < %s FOR UPDATE SKIP LOCKED
    ) RETURNING bucket
)
SELECT DISTINCT bucket FROM taken ORDER BY bucket

-- name: history_days
-- Begins of the UTC days, within a stretch of time, in which a line has events, sums or the begin of a day: from each day straight to
-- the next event behind it.
WITH RECURSIVE d AS (
    (
        SELECT date_trunc('day', at, 'UTC') AS day FROM mes.cell_event
        WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s ORDER BY at LIMIT 1
    )
    UNION ALL
    SELECT date_trunc('day', n.at, 'UTC')
    FROM d CROSS JOIN LATERAL (
        SELECT at FROM mes.cell_event
        WHERE line_id = %(line)s AND at >= d.day + interval '24 hours' AND at < %(end)s ORDER BY at LIMIT 1
    ) AS n
)
SELECT day FROM d
UNION
SELECT date_trunc('day', starts_at, 'UTC') FROM kpi.station_sum
WHERE line_id = %(line)s AND grain = 'bucket' AND starts_at >= %(begin)s AND starts_at < %(end)s
UNION
SELECT date_trunc('day', starts_at, 'UTC') FROM kpi.line_day WHERE line_id = %(line)s AND starts_at >= %(begin)s AND starts_at < %(end)s
ORDER BY 1

-- name: mark_history
-- Every bucket of a line that has events, sums or a day within a stretch of time: from each bucket straight to the next event behind
-- it. Of a day at most: each step looks at all chunks between begin and end, which is why both stand in it.
WITH RECURSIVE b AS (
    (
        SELECT date_bin('5 minutes', at, 'epoch'::timestamptz) AS bucket FROM mes.cell_event
        WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s ORDER BY at LIMIT 1
    )
    UNION ALL
    SELECT date_bin('5 minutes', n.at, 'epoch'::timestamptz)
    FROM b CROSS JOIN LATERAL (
        SELECT at FROM mes.cell_event
        WHERE line_id = %(line)s AND at >= b.bucket + interval '5 minutes' AND at >= %(begin)s AND at < %(end)s ORDER BY at LIMIT 1
    ) AS n
)
INSERT INTO mes.dirty_bucket (line_id, bucket)
SELECT %(line)s, bucket FROM b
UNION
SELECT line_id, starts_at FROM kpi.station_sum WHERE line_id = %(line)s AND grain = 'bucket' AND starts_at >= %(begin)s AND starts_at < %(end)s
UNION
SELECT line_id, starts_at FROM kpi.line_day WHERE line_id = %(line)s AND starts_at >= %(begin)s AND starts_at < %(end)s

-- name: axes
-- What the sums of a line range over: its stations, their defects, the grids of their readings by slot.
SELECT
    (SELECT array_agg(station_id ORDER BY station_id) FROM mes.station WHERE line_id = %(line)s),
    (SELECT coalesce(array_agg(d.defect_id ORDER BY d.defect_id), '{}')
     FROM mes.defect d JOIN mes.station s USING (station_id) WHERE s.line_id = %(line)s),
    (SELECT coalesce(jsonb_agg(jsonb_build_array(c.station_id, c.slot, c.grid_origin, c.grid_step)), '[]')
     FROM mes.characteristic c JOIN mes.station s USING (station_id) WHERE s.line_id = %(line)s AND c.grid_step IS NOT NULL)

-- name: read_events
-- Events as one string of records (mes.kpi.events): the client takes it as it is, where a COPY would hand it each row by itself.
SELECT string_agg(
    timestamptz_send(at) || timestamptz_send(received_at) || int8send(hashtextextended(unit, 0)) || int8send(seq)
    || int8send((machine_id::bigint << 32) | boot::bigint) || float4send(cycle_s)
    || int8send((station_id::bigint << 48) | (attempt::bigint << 32) | (result::bigint << 16) | defect_id::bigint)
    || array_send(meas), ''::bytea)
FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s

-- name: read_witnesses
-- Reports of the cells of a stretch, at the same stations and on the same production day, but outside of the stretch: records as
-- above, and the buckets behind the stretch that they lie in.
SELECT string_agg(
    timestamptz_send(at) || timestamptz_send(received_at) || int8send(hashtextextended(e.unit, 0)) || int8send(seq)
    || int8send((machine_id::bigint << 32) | boot::bigint) || float4send(cycle_s)
    || int8send((e.station_id::bigint << 48) | (attempt::bigint << 32) | (result::bigint << 16) | defect_id::bigint)
    || array_send(meas), ''::bytea),
    coalesce(array_agg(DISTINCT date_bin('5 minutes', e.at, 'epoch'::timestamptz)) FILTER (WHERE e.at >= %(end)s), '{}')
FROM (SELECT DISTINCT unit, station_id FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s) AS k
CROSS JOIN LATERAL (
    SELECT * FROM mes.cell_event c WHERE c.unit = k.unit AND c.station_id = k.station_id
    OFFSET 0 -- by the index of serials, cell by cell: a plan by time would read the whole day for each of them
) AS e
WHERE e.line_id = %(line)s AND e.at >= %(day_begin)s AND e.at < %(day_end)s AND (e.at < %(begin)s OR e.at >= %(end)s)

-- name: read_witnesses_in_chunks
-- The same where events lie in chunks: the bounds of the day stand inside, so that other chunks are left out. In one table they would
-- lead to a plan by time where statistics know of no event of the day.
SELECT string_agg(
    timestamptz_send(at) || timestamptz_send(received_at) || int8send(hashtextextended(e.unit, 0)) || int8send(seq)
    || int8send((machine_id::bigint << 32) | boot::bigint) || float4send(cycle_s)
    || int8send((e.station_id::bigint << 48) | (attempt::bigint << 32) | (result::bigint << 16) | defect_id::bigint)
    || array_send(meas), ''::bytea),
    coalesce(array_agg(DISTINCT date_bin('5 minutes', e.at, 'epoch'::timestamptz)) FILTER (WHERE e.at >= %(end)s), '{}')
FROM (SELECT DISTINCT unit, station_id FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s) AS k
CROSS JOIN LATERAL (
    SELECT * FROM mes.cell_event c
    WHERE c.unit = k.unit AND c.station_id = k.station_id AND c.at >= %(day_begin)s AND c.at < %(day_end)s
    OFFSET 0 -- by the index of serials, cell by cell: a plan by line and time would read the whole day for each of them
) AS e
WHERE e.line_id = %(line)s AND (e.at < %(begin)s OR e.at >= %(end)s)

-- Hours and days: while a line runs, few of its stations have reported since the last time. Only what differs is written, and what does not is
-- not even locked: replaced as a whole, sums were nine tenths of what a running plant wrote to its log.

-- name: sum_stations
-- Stations over stretches of time, from the sums of the finer grain inside them.
WITH part AS (
    SELECT t.starts_at AS whole, s.*
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS t (starts_at, ends_at)
    JOIN kpi.station_sum s ON s.line_id = %(line)s AND s.grain = %(finer)s::kpi.grain AND s.starts_at >= t.starts_at AND s.starts_at < t.ends_at
), histogram AS (
    SELECT whole, station_id, array_agg(bin ORDER BY bin) AS bins, array_agg(n ORDER BY bin) AS counts
    FROM (
        SELECT p.whole, p.station_id, t.bin, sum(t.n)::bigint AS n
        FROM part p CROSS JOIN LATERAL unnest(p.cycle_bin, p.cycle_n) AS t (bin, n) GROUP BY p.whole, p.station_id, t.bin
    ) x GROUP BY whole, station_id
), now AS (
    SELECT %(line)s::smallint, %(grain)s::kpi.grain, whole, station_id, sum(pass), sum(rework), sum(scrap), sum(inspected),
        sum(first_pass_good), sum(passed), sum(retests), min(h.bins), min(h.counts), max(last_event_at)
    FROM part JOIN histogram h USING (whole, station_id) GROUP BY whole, station_id
), gone AS (
    DELETE FROM kpi.station_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
        AND (starts_at, station_id) NOT IN (SELECT whole, station_id FROM now)
)
INSERT INTO kpi.station_sum
SELECT * FROM now
EXCEPT SELECT * FROM kpi.station_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
ON CONFLICT (line_id, grain, starts_at, station_id) DO UPDATE
SET (pass, rework, scrap, inspected, first_pass_good, passed, retests, cycle_bin, cycle_n, last_event_at)
    = (EXCLUDED.pass, EXCLUDED.rework, EXCLUDED.scrap, EXCLUDED.inspected, EXCLUDED.first_pass_good, EXCLUDED.passed, EXCLUDED.retests,
        EXCLUDED.cycle_bin, EXCLUDED.cycle_n, EXCLUDED.last_event_at)

-- name: sum_defects
-- Defects over stretches of time.
WITH now AS (
    SELECT %(line)s::smallint, %(grain)s::kpi.grain, t.starts_at AS whole, s.defect_id, sum(s.n)
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS t (starts_at, ends_at)
    JOIN kpi.defect_sum s ON s.line_id = %(line)s AND s.grain = %(finer)s::kpi.grain AND s.starts_at >= t.starts_at AND s.starts_at < t.ends_at
    GROUP BY t.starts_at, s.defect_id
), gone AS (
    DELETE FROM kpi.defect_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
        AND (starts_at, defect_id) NOT IN (SELECT whole, defect_id FROM now)
)
INSERT INTO kpi.defect_sum
SELECT * FROM now
EXCEPT SELECT * FROM kpi.defect_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
ON CONFLICT (line_id, grain, starts_at, defect_id) DO UPDATE SET n = EXCLUDED.n

-- name: sum_readings
-- Readings over stretches of time.
WITH now AS (
    SELECT %(line)s::smallint, %(grain)s::kpi.grain, t.starts_at AS whole, s.station_id, s.slot, sum(s.n), sum(s.implausible), sum(s.total),
        sum(s.squares), min(s.low), max(s.high)
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS t (starts_at, ends_at)
    JOIN kpi.reading_sum s ON s.line_id = %(line)s AND s.grain = %(finer)s::kpi.grain AND s.starts_at >= t.starts_at AND s.starts_at < t.ends_at
    GROUP BY t.starts_at, s.station_id, s.slot
), gone AS (
    DELETE FROM kpi.reading_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
        AND (starts_at, station_id, slot) NOT IN (SELECT whole, station_id, slot FROM now)
)
INSERT INTO kpi.reading_sum
SELECT * FROM now
EXCEPT SELECT * FROM kpi.reading_sum WHERE line_id = %(line)s AND grain = %(grain)s::kpi.grain AND starts_at = ANY(%(starts)s)
ON CONFLICT (line_id, grain, starts_at, station_id, slot) DO UPDATE
SET (n, implausible, total, squares, low, high)
    = (EXCLUDED.n, EXCLUDED.implausible, EXCLUDED.total, EXCLUDED.squares, EXCLUDED.low, EXCLUDED.high)

-- name: sum_machine_hours
-- What machines delivered in elapsed hours.
WITH now AS (
    SELECT %(line)s::smallint, 'hour'::kpi.grain, whole, array_agg(machine_id ORDER BY machine_id, boot), array_agg(boot ORDER BY machine_id, boot),
        array_agg(received ORDER BY machine_id, boot), array_agg(late ORDER BY machine_id, boot), array_agg(ahead ORDER BY machine_id, boot),
        array_agg(first_seq ORDER BY machine_id, boot), array_agg(last_seq ORDER BY machine_id, boot)
    FROM (
        SELECT t.starts_at AS whole, x.machine_id, x.boot, sum(x.received)::bigint AS received, sum(x.late)::bigint AS late,
            sum(x.ahead)::bigint AS ahead, min(x.first_seq) AS first_seq, max(x.last_seq) AS last_seq
        FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS t (starts_at, ends_at)
        JOIN kpi.machine_sum s ON s.line_id = %(line)s AND s.grain = 'bucket' AND s.starts_at >= t.starts_at AND s.starts_at < t.ends_at
        CROSS JOIN LATERAL unnest(s.machine_id, s.boot, s.received, s.late, s.ahead, s.first_seq, s.last_seq)
            AS x (machine_id, boot, received, late, ahead, first_seq, last_seq)
        GROUP BY t.starts_at, x.machine_id, x.boot
    ) AS m GROUP BY whole
), gone AS (
    DELETE FROM kpi.machine_sum WHERE line_id = %(line)s AND grain = 'hour' AND starts_at = ANY(%(starts)s)
        AND starts_at NOT IN (SELECT whole FROM now)
)
INSERT INTO kpi.machine_sum
SELECT * FROM now
EXCEPT SELECT * FROM kpi.machine_sum WHERE line_id = %(line)s AND grain = 'hour' AND starts_at = ANY(%(starts)s)
ON CONFLICT (line_id, grain, starts_at) DO UPDATE
SET (machine_id, boot, received, late, ahead, first_seq, last_seq)
    = (EXCLUDED.machine_id, EXCLUDED.boot, EXCLUDED.received, EXCLUDED.late, EXCLUDED.ahead, EXCLUDED.first_seq, EXCLUDED.last_seq)

-- name: sum_machine_day
-- What machines delivered in a production day, from its hours.
WITH now AS (
    SELECT %(line)s::smallint, %(day)s::date, x.machine_id, x.boot, sum(x.received), sum(x.late), sum(x.ahead), min(x.first_seq), max(x.last_seq)
    FROM kpi.machine_sum s
    CROSS JOIN LATERAL unnest(s.machine_id, s.boot, s.received, s.late, s.ahead, s.first_seq, s.last_seq)
        AS x (machine_id, boot, received, late, ahead, first_seq, last_seq)
    WHERE s.line_id = %(line)s AND s.grain = 'hour' AND s.starts_at >= %(begin)s AND s.starts_at < %(end)s
    GROUP BY x.machine_id, x.boot
), gone AS (
    DELETE FROM kpi.machine_day
    WHERE line_id = %(line)s AND production_day = %(day)s AND (machine_id, boot) NOT IN (SELECT machine_id, boot FROM now)
)
INSERT INTO kpi.machine_day (line_id, production_day, machine_id, boot, received, late, ahead, first_seq, last_seq)
SELECT * FROM now
EXCEPT SELECT line_id, production_day, machine_id, boot, received, late, ahead, first_seq, last_seq FROM kpi.machine_day
    WHERE line_id = %(line)s AND production_day = %(day)s
ON CONFLICT (line_id, production_day, machine_id, boot) DO UPDATE
SET (received, late, ahead, first_seq, last_seq) = (EXCLUDED.received, EXCLUDED.late, EXCLUDED.ahead, EXCLUDED.first_seq, EXCLUDED.last_seq)

-- name: drop_shifts
-- Shifts of a day that are about to be replaced.
DELETE FROM kpi.line_shift WHERE line_id = %(line)s AND production_day = %(day)s

-- name: sum_shifts
-- A line's shifts from the buckets inside them.
INSERT INTO kpi.line_shift
SELECT %(line)s, %(day)s, t.position, t.shift, t.starts_at, t.ends_at, coalesce(sum(x.pass + x.rework + x.scrap), 0),
    coalesce(sum(x.passed) FILTER (WHERE s.is_count_point), 0), coalesce(sum(x.scrap), 0), max(x.last_event_at)
FROM unnest(%(positions)s::smallint[], %(names)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
    AS t (position, shift, starts_at, ends_at)
LEFT JOIN (kpi.station_sum x JOIN mes.station s USING (station_id))
    ON x.line_id = %(line)s AND x.grain = 'bucket' AND x.starts_at >= t.starts_at AND x.starts_at < t.ends_at
GROUP BY t.position, t.shift, t.starts_at, t.ends_at

-- name: sum_line_day
-- A line's day from its stations and machines: good counts at the count point, scrap anywhere.
INSERT INTO kpi.line_day AS d (
    line_id, production_day, starts_at, ends_at, regular_s, scheduled_s, scheduled,
    events, started, good, scrap, last_event_at, unscrapped, unscrapped_booked, late, ahead)
SELECT %(line)s, %(day)s, %(begin)s, %(end)s, %(regular_s)s, kpi.seconds(%(scheduled)s::tstzmultirange), %(scheduled)s::tstzmultirange,
    x.*, u.*, b.*, m.*
FROM (
    SELECT coalesce(sum(x.pass + x.rework + x.scrap), 0), coalesce(sum(x.inspected) FILTER (WHERE s.seq = f.seq), 0),
        coalesce(sum(x.passed) FILTER (WHERE s.is_count_point), 0), coalesce(sum(x.scrap), 0), max(x.last_event_at)
    FROM kpi.station_sum x JOIN mes.station s USING (station_id)
    CROSS JOIN (SELECT min(seq) AS seq FROM mes.station WHERE line_id = %(line)s AND active) AS f
    WHERE x.line_id = %(line)s AND x.grain = 'day' AND x.starts_at = %(begin)s
) AS x
CROSS JOIN (SELECT count(*) FROM mes.unscrap WHERE line_id = %(line)s AND scrapped_at >= %(begin)s AND scrapped_at < %(end)s) AS u
CROSS JOIN (SELECT count(*) FROM mes.unscrap WHERE line_id = %(line)s AND booked_at >= %(begin)s AND booked_at < %(end)s) AS b
CROSS JOIN (
    SELECT coalesce(sum(late), 0), coalesce(sum(ahead), 0) FROM kpi.machine_day WHERE line_id = %(line)s AND production_day = %(day)s
) AS m
ON CONFLICT (line_id, production_day) DO UPDATE SET
    starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at, regular_s = EXCLUDED.regular_s, scheduled_s = EXCLUDED.scheduled_s,
    scheduled = EXCLUDED.scheduled, events = EXCLUDED.events, started = EXCLUDED.started, good = EXCLUDED.good, scrap = EXCLUDED.scrap,
    unscrapped = EXCLUDED.unscrapped, unscrapped_booked = EXCLUDED.unscrapped_booked, late = EXCLUDED.late, ahead = EXCLUDED.ahead,
    last_event_at = EXCLUDED.last_event_at

-- name: sum_lacking
-- What the days of a line lack: what its machines have not delivered, and what waits in the quarantine, known to be an event of the
-- line or of a machine that nobody knows.
UPDATE kpi.line_day d SET missing = x.missing, quarantined = x.quarantined
FROM (
    SELECT o.production_day, coalesce(g.n, 0) AS missing, coalesce(q.n, 0) AS quarantined
    FROM kpi.line_day o
    LEFT JOIN (SELECT production_day, sum(n) AS n FROM kpi.gap WHERE line_id = %(line)s GROUP BY production_day) AS g USING (production_day)
    LEFT JOIN (
        SELECT w.production_day, sum(b.n) AS n
        FROM (
            SELECT date_bin('5 minutes', y.first_seen_at, 'epoch'::timestamptz) AS bucket, count(*) AS n
            FROM mes.quarantine y JOIN mes.line l ON starts_with(y.topic, 'umh/v1/cbak/' || l.path || '/')
            WHERE l.line_id = %(line)s AND (y.counted OR y.machine_id IS NULL) GROUP BY 1
        ) AS b
        JOIN kpi.line_day w ON w.line_id = %(line)s AND w.starts_at <= b.bucket AND w.ends_at > b.bucket
            AND w.production_day BETWEEN b.bucket::date - 2 AND b.bucket::date + 2
        GROUP BY w.production_day
    ) AS q USING (production_day)
    WHERE o.line_id = %(line)s
) AS x
WHERE d.line_id = %(line)s AND d.production_day = x.production_day AND (d.missing, d.quarantined) IS DISTINCT FROM (x.missing, x.quarantined)

-- name: tell_figures
-- Whoever shows figures reads them again when this transaction has committed.
SELECT pg_notify('mes_figures', path) FROM mes.line WHERE line_id = %(line)s

-- name: restate
-- Note what a day now reports; if it was closed, what it reported before.
WITH now AS (
    SELECT line_id, production_day, ends_at, good, scrap - unscrapped AS scrap, events FROM kpi.line_day
    WHERE line_id = %(line)s AND production_day = %(day)s
), before AS (
    SELECT r.* FROM mes.day_report r JOIN now USING (line_id, production_day)
    WHERE (r.good, r.scrap, r.events) IS DISTINCT FROM (now.good, now.scrap, now.events)
), kept AS (
    INSERT INTO mes.restatement (line_id, production_day, version, good_before, good, scrap_before, scrap, events_before, events)
    SELECT b.line_id, b.production_day, b.version + 1, b.good, now.good, b.scrap, now.scrap, b.events, now.events
    FROM before b CROSS JOIN now WHERE b.closed_at IS NOT NULL
    RETURNING version
)
INSERT INTO mes.day_report AS r (line_id, production_day, ends_at, good, scrap, events)
SELECT * FROM now
ON CONFLICT (line_id, production_day) DO UPDATE SET
    ends_at = EXCLUDED.ends_at, good = EXCLUDED.good, scrap = EXCLUDED.scrap, events = EXCLUDED.events,
    version = coalesce((SELECT version FROM kept), r.version), changed_at = now()
WHERE (r.good, r.scrap, r.events, r.ends_at) IS DISTINCT FROM (EXCLUDED.good, EXCLUDED.scrap, EXCLUDED.events, EXCLUDED.ends_at)

-- name: close_days
-- Days that ended long enough ago, that nothing has changed for a while, and that no mark says will change.
UPDATE mes.day_report r SET closed_at = now()
WHERE closed_at IS NULL AND ends_at < now() - %(grace)s AND changed_at < now() - %(quiet)s
    AND NOT EXISTS (SELECT FROM mes.dirty_bucket d WHERE d.line_id = r.line_id AND d.bucket < r.ends_at)

-- name: open_days
-- Mark the days of a line on which nothing has happened yet, today's too, so that they are reported with nothing: those that follow
-- a day with events within a month.
INSERT INTO mes.dirty_bucket (line_id, bucket)
SELECT %(line)s, day FROM unnest(%(starts)s::timestamptz[]) AS day

-- name: days_to_open
-- Production days up to today that have no row and follow a day with events within a month. Behind the last day they are opened
-- once the line has been silent for a while: a line that is behind will have events for them.
SELECT day::date
FROM (
    SELECT production_day, lead(production_day) OVER (ORDER BY production_day) AS next,
        max(production_day) FILTER (WHERE events > 0) OVER (ORDER BY production_day) AS worked
    FROM kpi.line_day WHERE line_id = %(line)s
) AS d, generate_series(production_day + 1, least(coalesce(next - 1, %(today)s), %(today)s, worked + 31), interval '1 day') AS day
WHERE next IS DISTINCT FROM production_day + 1
    AND EXISTS (SELECT FROM mes.line WHERE line_id = %(line)s AND active)
    AND (
        next IS NOT NULL
        OR EXISTS (SELECT FROM mes.day_report r WHERE r.line_id = %(line)s AND r.production_day = day::date)
        OR NOT EXISTS (SELECT FROM mes.day_report r WHERE r.line_id = %(line)s AND r.changed_at > now() - %(silent)s)
    )

-- name: scrap_of_unit
-- Reports of scrap of a cell, whether their day is closed, and whether they were taken back.
SELECT e.machine_id, l.path || '/' || s.code || '/' || m.code, e.boot, e.seq, e.line_id, e.at,
    EXISTS (
        SELECT FROM mes.day_report r JOIN kpi.line_day d USING (line_id, production_day)
        WHERE r.line_id = e.line_id AND d.starts_at <= e.at AND d.ends_at > e.at AND r.closed_at IS NOT NULL
    ),
    EXISTS (SELECT FROM mes.unscrap u WHERE u.machine_id = e.machine_id AND u.boot = e.boot AND u.seq = e.seq)
FROM mes.cell_event e JOIN mes.line l USING (line_id) JOIN mes.station s USING (station_id) JOIN mes.machine m USING (machine_id)
WHERE e.unit = %(unit)s AND e.result = 2 AND (%(station)s::text IS NULL OR s.code = %(station)s)

-- name: unscrap
-- Take back a report of scrap; the instant on whose day it is booked.
INSERT INTO mes.unscrap (machine_id, boot, seq, line_id, unit, scrapped_at, booked_at, why)
VALUES (%(machine)s, %(boot)s, %(seq)s, %(line)s, %(unit)s, %(at)s, CASE WHEN %(closed)s THEN now() ELSE %(at)s END, %(why)s)
RETURNING booked_at

-- name: mark_unscrapped
-- The days that a correction changes.
INSERT INTO mes.dirty_bucket (line_id, bucket)
SELECT DISTINCT %(line)s::smallint, date_bin('5 minutes', at, 'epoch'::timestamptz) FROM unnest(%(at)s::timestamptz[]) AS at

-- name: unit_history
-- The visits of one cell.
SELECT * FROM report.unit_history(%s)

-- name: figures
-- What each active line is told of: the newest production day that has begun, the one that runs, the bottleneck, for how much scheduled
-- time it has been silent; a row for each of its alerts, as of one moment.
SELECT l.line_id, l.path AS line, s.code AS site, l.area, l.code, s.zone, now() AS now,
    t.production_day, t.good, t.target, t.attainment, t.scrap, t.missing, t.quarantined, t.completeness, t.last_event_at,
    y.output_yield, y.rolled_throughput_yield, y.first_pass_yield, y.scrap AS yield_scrap,
    n.production_day AS today, n.good AS good_so_far, n.target AS target_of_today, n.target_so_far, n.pace_per_h, n.projected,
    n.remaining_per_h, n.wip, n.last_event_at AS heard_at,
    b.production_day AS station_day, b.station, b.station_name, b.state AS station_state, b.utilisation, q.silent_s, heard.is_behind,
    r.name AS alert, r.raise_at, r.clear_at, r.hold_s, r.least, a.state, a.since, a.pending_since, a.reason, a.said_at
FROM mes.line l
JOIN mes.site s USING (site_id)
JOIN report.line_now n ON n.line = l.path
LEFT JOIN LATERAL (
    SELECT * FROM report.daily_throughput d WHERE d.line = l.path AND d.starts_at <= now() ORDER BY d.production_day DESC LIMIT 1
) AS t ON true
LEFT JOIN LATERAL (
    SELECT * FROM report.daily_yield d WHERE d.line = l.path AND d.production_day = t.production_day
) AS y ON true
LEFT JOIN report.station_now b ON b.line = l.path AND b.is_bottleneck
CROSS JOIN LATERAL (
    -- A line that is behind is not silent: its events are old, but its figures change.
    SELECT CASE WHEN n.last_event_at IS NOT NULL THEN least(now(), greatest(n.last_event_at, w.changed_at)) END AS at,
        n.last_event_at < now() - interval '10 minutes' AND w.changed_at > now() - interval '5 minutes' AS is_behind
    FROM (
        SELECT max(changed_at) AS changed_at FROM (
            SELECT changed_at FROM mes.day_report x WHERE x.line_id = l.line_id AND x.events > 0 ORDER BY x.production_day DESC LIMIT 7
        ) AS week
    ) AS w
) AS heard
LEFT JOIN LATERAL (
    -- NULL while no time is scheduled: nothing is expected. Of a day that has no row yet nobody knows, and what was silent stays so.
    SELECT CASE WHEN heard.at IS NOT NULL AND coalesce(bool_or(d.scheduled @> now()) FILTER (WHERE d.ends_at > now()), true)
        THEN kpi.seconds(range_agg(d.scheduled) * tstzmultirange(tstzrange(heard.at, now()))) END AS silent_s
    FROM kpi.line_day d
    WHERE d.line_id = l.line_id AND d.production_day > now()::date - 40 AND d.starts_at <= now() AND d.ends_at > heard.at
) AS q ON true
LEFT JOIN mes.alert_rule r ON r.line_id = l.line_id
LEFT JOIN mes.alert a ON a.line_id = l.line_id AND a.name = r.name
WHERE l.active
ORDER BY l.path, r.name

-- name: change_alert
-- The next state of an alert, unless another rollup has changed it since it was read; what was raised or cleared goes into the history.
WITH changed AS (
    INSERT INTO mes.alert AS a (line_id, name, state, since, pending_since, reason, said_at)
    VALUES (%(line_id)s, %(alert)s, %(state)s, %(since)s, %(pending_since)s, %(reason)s, %(said_at)s)
    ON CONFLICT (line_id, name) DO UPDATE SET state = EXCLUDED.state, since = EXCLUDED.since, pending_since = EXCLUDED.pending_since,
        reason = EXCLUDED.reason, said_at = EXCLUDED.said_at
    WHERE (a.state, a.since, a.pending_since, a.said_at) IS NOT DISTINCT FROM
        (%(was_state)s::text, %(was_since)s::timestamptz, %(was_pending_since)s::timestamptz, %(was_said_at)s::timestamptz)
    RETURNING line_id, name, state, since, reason
), raised AS (
    INSERT INTO mes.alert_history (line_id, name, raised_at, reason)
    SELECT line_id, name, since, reason FROM changed WHERE state = 'raised' AND %(was_state)s::text IS DISTINCT FROM 'raised'
), cleared AS (
    UPDATE mes.alert_history h SET cleared_at = c.since, clear_reason = c.reason FROM changed c
    WHERE h.line_id = c.line_id AND h.name = c.name AND h.cleared_at IS NULL AND c.state = 'cleared'
)
SELECT count(*) FROM changed

-- name: lead
-- Whether this connection publishes: one at a time, until it ends.
SELECT pg_try_advisory_lock(%s::integer, 0)

-- name: line_paths
-- Names of the lines.
SELECT line FROM report.line WHERE is_active ORDER BY line

-- name: reported_days
-- The production days of each line that have begun: how far they reach, and the newest that is over.
SELECT l.line, l.name || ', ' || l.site_name AS name, l.zone, l.is_active, min(d.production_day) AS first, max(d.production_day) AS last,
    max(d.production_day) FILTER (WHERE d.is_over) AS over
FROM report.line l LEFT JOIN report.daily_throughput d ON d.line = l.line AND d.starts_at <= now()
GROUP BY l.line, l.name, l.site_name, l.zone, l.is_active ORDER BY l.line

-- Reports: of each line a stretch of its production days.

-- name: daily_report
-- Throughput and yield of lines and days, side by side, newest first.
SELECT t.line, t.production_day, t.product, t.good, t.target, t.attainment, t.gap, t.scrap, t.events, t.energy_mwh, t.run_rate_gwh,
    t.run_rate_days_per_year, t.is_over, t.is_closed, t.version, t.missing, t.quarantined, t.late, t.clock_ahead, t.completeness,
    y.output_yield, y.rolled_throughput_yield, y.first_pass_yield
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.daily_throughput t ON t.line = w.line AND t.production_day BETWEEN w.first AND w.last
JOIN report.daily_yield y ON y.line = t.line AND y.production_day = t.production_day
ORDER BY t.production_day DESC, t.line LIMIT %(most)s

-- name: shift_report
-- Shifts of lines and days, newest day first.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.shift_throughput v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
ORDER BY v.production_day DESC, v.line, v.shift_of_day LIMIT %(most)s

-- name: yield_report
-- Stations of lines and days in route order, newest day first.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.station_yield v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
WHERE %(station)s::text IS NULL OR v.station = %(station)s
ORDER BY v.production_day DESC, v.line, v.station_seq LIMIT %(most)s

-- name: pareto_report
-- Defects of lines and days, the most frequent first, newest day first.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.defect_pareto v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
WHERE %(station)s::text IS NULL OR v.station = %(station)s
ORDER BY v.production_day DESC, v.line, v.rank LIMIT %(most)s

-- name: completeness_report
-- Machines of lines and days; without `every` only those of which something is missing, late, in quarantine or came twice.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.completeness v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
WHERE (%(station)s::text IS NULL OR v.station = %(station)s)
    AND (%(every)s OR v.missing + v.quarantined + v.late + v.duplicates + v.clock_ahead > 0)
ORDER BY v.production_day DESC, v.line, v.missing + v.quarantined DESC, v.station, v.machine LIMIT %(most)s

-- name: hourly_report
-- Hours of lines and days in order.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.hourly_throughput v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
ORDER BY v.production_day DESC, v.line, v.hour_of_day LIMIT %(most)s

-- name: restatement_report
-- Changes of days after they were closed, oldest first.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.restatements v ON v.line = w.line AND v.production_day BETWEEN w.first AND w.last
ORDER BY v.line, v.production_day, v.version LIMIT %(most)s

-- name: alert_report
-- Alerts that stood at some time in production days of lines, in order.
SELECT v.*
FROM unnest(%(lines)s::text[], %(firsts)s::date[], %(lasts)s::date[]) AS w (line, first, last)
JOIN report.daily_throughput d ON d.line = w.line AND d.production_day BETWEEN w.first AND w.last
JOIN report.alert v ON v.line = w.line AND v.raised_at < d.ends_at AND coalesce(v.cleared_at, now()) >= d.starts_at
ORDER BY v.line, v.raised_at LIMIT %(most)s

-- name: stations_of_lines
-- Codes of the stations of lines, in route order.
SELECT DISTINCT s.code, s.seq FROM mes.station s JOIN mes.line l USING (line_id) WHERE l.path = ANY(%(lines)s) ORDER BY s.seq

-- name: newest_days
-- Each line with the newest production day that has begun.
SELECT l.line, l.zone, t.production_day, t.good, t.target, t.attainment, t.last_event_at, y.output_yield, y.rolled_throughput_yield
FROM report.line l
LEFT JOIN LATERAL (
    SELECT d.* FROM report.daily_throughput d WHERE d.line = l.line AND d.starts_at <= now() ORDER BY d.production_day DESC LIMIT 1
) t ON true
LEFT JOIN report.daily_yield y ON y.line = t.line AND y.production_day = t.production_day
WHERE l.is_active
ORDER BY l.line

-- The board: views of `report` and nothing else.

-- name: board
-- Lines with a production day, a given one or the newest that has begun: its hours, stations and most frequent defects, and the alerts that
-- are raised; one statement, so one snapshot. What is true of this moment only is NULL on a day that is over, and the pace where the line is
-- behind with its events: it would compare them with the clock. Yields stand beside the stations: joined, they would be looked for station
-- by station.
SELECT l.line, l.name, l.site_name, l.zone, coalesce(t.product, l.product) AS product,
    t.production_day, t.starts_at, t.ends_at, t.good, t.target, t.attainment, t.gap, t.scrap, t.events, t.last_event_at, t.is_over, t.is_closed,
    t.version, t.energy_mwh, t.scheduled_h, t.completeness, t.missing, t.quarantined, t.late, y.output_yield, y.rolled_throughput_yield,
    n.target_so_far, n.pace_per_h, n.projected, n.remaining_per_h, n.scheduled_h_left, n.wip, s.is_behind,
    h.hours, s.stations, q.yields, f.defects, a.alerts
FROM report.line l
LEFT JOIN LATERAL (
    SELECT d.* FROM report.daily_throughput d
    WHERE d.line = l.line AND d.starts_at <= now() AND (%(day)s::date IS NULL OR d.production_day = %(day)s::date)
    ORDER BY d.production_day DESC LIMIT 1
) t ON true
LEFT JOIN LATERAL (
    SELECT d.output_yield, d.rolled_throughput_yield
    FROM report.daily_yield d WHERE d.line = t.line AND d.production_day = t.production_day
) y ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('hour_starts_at', d.hour_starts_at, 'hour_of_day', d.hour_of_day,
        'good', d.good, 'scrap', d.scrap, 'target', d.target) ORDER BY d.hour_of_day) AS hours
    FROM report.hourly_throughput d WHERE d.line = t.line AND d.production_day = t.production_day
) h ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('station', x.station, 'name', x.station_name, 'section', x.section, 'machines', x.machines,
        'window_h', x.window_h, 'rate_per_h', CASE WHEN x.production_day = t.production_day THEN x.rate_per_h END,
        'utilisation', CASE WHEN x.production_day = t.production_day THEN x.utilisation END,
        'wip_before', CASE WHEN x.production_day = t.production_day THEN x.wip_before END,
        'state', CASE WHEN x.production_day = t.production_day THEN x.state END,
        'last_event_at', CASE WHEN x.production_day = t.production_day THEN x.last_event_at END,
        'is_bottleneck', coalesce(x.production_day = t.production_day AND x.is_bottleneck, false)) ORDER BY x.station_seq) AS stations,
        max(x.as_of) AS as_of, bool_or(x.production_day = t.production_day AND x.as_of < now() - interval '1 minute') AS is_behind
    FROM report.station_now x
    WHERE x.line = l.line
) s ON true
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(d.station, jsonb_build_object('inspected', d.inspected, 'first_pass_yield', d.first_pass_yield, 'good', d.good,
        'rework', d.rework, 'scrap', d.scrap, 'cycle_p50_s', d.cycle_p50_s, 'cycle_p95_s', d.cycle_p95_s)) AS yields
    FROM report.station_yield d WHERE d.line = t.line AND d.production_day = t.production_day
) q ON true
LEFT JOIN report.line_now n ON n.line = t.line AND n.production_day = t.production_day AND s.as_of >= now() - interval '1 minute'
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('station', d.station, 'defect', d.defect, 'name', d.defect_name, 'count', d.count,
        'share', d.share, 'cumulative_share', d.cumulative_share) ORDER BY d.rank) AS defects
    FROM report.defect_pareto d WHERE d.line = t.line AND d.production_day = t.production_day AND d.rank <= %(defects)s
) f ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('alert', d.alert, 'since', d.since, 'reason', d.reason) ORDER BY d.since, d.alert) AS alerts
    FROM report.alert_now d WHERE %(day)s::date IS NULL AND d.line = l.line AND d.state = 'raised'
) a ON true
WHERE l.is_active AND (%(line)s::text IS NULL OR l.line = %(line)s)
ORDER BY l.line

-- name: zones
-- The time zone of each line's site.
SELECT line, zone FROM report.line

-- name: board_days
-- The production days of each active line before the newest, that have begun within so many days, oldest first.
SELECT l.line, t.production_day, t.good, t.target, t.attainment, t.gap, t.scrap, t.is_over, t.is_closed, t.version, t.completeness,
    y.output_yield, y.rolled_throughput_yield
FROM report.line l
JOIN report.daily_throughput t ON t.line = l.line
JOIN report.daily_yield y ON y.line = t.line AND y.production_day = t.production_day
WHERE l.is_active AND t.starts_at <= now() AND t.production_day > (now() AT TIME ZONE l.zone)::date - %(days)s::integer
ORDER BY l.line, t.production_day

-- name: board_station
-- A station in a production day: its machines with the states that they have told of within a day, all its defects, its cycle times, its
-- characteristics, and the cells that missed in the two hours before now, or before the day ended; one snapshot.
SELECT x.line, x.station, x.station_name AS name, x.section, x.kind, l.name AS line_name, l.zone, t.production_day, t.starts_at, t.is_over,
    (SELECT jsonb_agg(jsonb_build_object('machine', c.machine, 'received', c.received, 'missing', c.missing, 'quarantined', c.quarantined,
        'duplicates', c.duplicates, 'late', c.late, 'completeness', c.completeness) ORDER BY c.machine)
     FROM report.completeness c WHERE c.line = t.line AND c.production_day = t.production_day AND c.station = x.station) AS machines,
    (SELECT jsonb_object_agg(o.machine, jsonb_build_object('state', o.state, 'reason', o.reason, 'began_at', o.began_at))
     FROM (
        SELECT DISTINCT ON (z.machine) z.machine, z.state, z.reason, z.began_at FROM report.machine_state z
        WHERE z.line = x.line AND z.station = x.station
            AND z.began_at > least(x.as_of, t.ends_at) - interval '1 day' AND z.began_at <= least(x.as_of, t.ends_at)
        ORDER BY z.machine, z.began_at DESC, z.boot DESC, z.seq DESC
     ) AS o) AS states,
    (SELECT jsonb_agg(jsonb_build_array(m.machine, m.hour_of_day, m.events) ORDER BY m.machine, m.hour_of_day)
     FROM report.hourly_machine m WHERE m.line = t.line AND m.production_day = t.production_day AND m.station = x.station) AS hours,
    (SELECT jsonb_agg(jsonb_build_object('station', d.station, 'defect', d.defect, 'name', d.defect_name, 'count', d.count,
        'share', d.share) ORDER BY d.rank)
     FROM report.defect_pareto d WHERE d.line = t.line AND d.production_day = t.production_day AND d.station = x.station) AS defects,
    (SELECT jsonb_agg(jsonb_build_array(b.from_s, b.below_s, b.count) ORDER BY b.from_s)
     FROM report.cycle_time b WHERE b.line = t.line AND b.production_day = t.production_day AND b.station = x.station) AS cycle_times,
    (SELECT jsonb_agg(jsonb_build_object('characteristic', k.characteristic, 'unit', k.unit, 'n', k.n, 'mean', k.mean, 'sd', k.sd,
        'lowest', k.lowest, 'highest', k.highest, 'nominal', k.nominal, 'lsl', k.lsl, 'usl', k.usl, 'implausible', k.implausible)
        ORDER BY k.characteristic)
     FROM report.daily_characteristic k WHERE k.line = t.line AND k.production_day = t.production_day AND k.station = x.station) AS characteristics,
    (SELECT jsonb_agg(jsonb_build_object('unit', v.unit, 'at', v.at, 'machine', v.machine, 'result', v.result, 'defect', v.defect,
        'defect_name', v.defect_name) ORDER BY v.at DESC)
     FROM (
        SELECT * FROM report.unit_visit u
        WHERE u.line = x.line AND u.station = x.station AND u.result <> 'pass'
            AND u.at > least(x.as_of, t.ends_at) - interval '2 hours' AND u.at <= least(x.as_of, t.ends_at)
        ORDER BY u.at DESC LIMIT 8
     ) AS v) AS missed
FROM report.station_now x
JOIN report.line l ON l.line = x.line
LEFT JOIN LATERAL (
    SELECT d.line, d.production_day, d.starts_at, d.ends_at, d.is_over FROM report.daily_throughput d
    WHERE d.line = x.line AND d.starts_at <= now() AND (%(day)s::date IS NULL OR d.production_day = %(day)s::date)
    ORDER BY d.production_day DESC LIMIT 1
) t ON true
WHERE x.line = %(line)s AND x.station = %(station)s
