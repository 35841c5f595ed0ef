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

-- name: stored_events
-- Which of these events of a line the table holds.
SELECT e.machine_id, e.boot, e.seq
FROM unnest(%s::timestamptz[], %s::integer[], %s::integer[], %s::bigint[]) AS k (at, machine_id, boot, seq)
JOIN mes.cell_event e ON (e.line_id, e.at, e.machine_id, e.boot, e.seq) = (%s::smallint, k.at, k.machine_id, k.boot, k.seq)

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

-- name: lines_with_marks
-- Lines that wait for a rollup, and the oldest bucket that does.
SELECT d.line_id, l.path, s.zone, s.day_start, min(d.bucket), count(*)
FROM mes.dirty_bucket d JOIN mes.line l USING (line_id) JOIN mes.site s USING (site_id)
GROUP BY d.line_id, l.path, s.zone, s.day_start ORDER BY min(d.bucket)

-- name: take_marks
-- The marks of a stretch of time: whoever deletes them owes the sums of their buckets.
WITH taken AS (DELETE FROM mes.dirty_bucket WHERE line_id = %s AND bucket >= %s AND bucket < %s RETURNING bucket)
SELECT DISTINCT bucket FROM taken ORDER BY bucket

-- name: line_calendars
-- What is needed to know a line's production days.
SELECT l.line_id, s.zone, s.day_start FROM mes.line l JOIN mes.site s USING (site_id)
WHERE %(path)s::text IS NULL OR l.path = %(path)s

-- name: mark_history
-- Every bucket of a line that has events or sums within a stretch of time.
INSERT INTO mes.dirty_bucket (line_id, bucket)
SELECT line_id, date_bin('5 minutes', at, 'epoch'::timestamptz) FROM mes.cell_event
WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s
UNION
SELECT line_id, bucket FROM kpi.station_bucket WHERE line_id = %(line)s AND bucket >= %(begin)s AND bucket < %(end)s

-- name: stations_and_defects
-- Ids of a line's stations and their defects, for dense arrays.
SELECT array_agg(DISTINCT s.station_id ORDER BY s.station_id), coalesce(array_agg(DISTINCT d.defect_id ORDER BY d.defect_id) FILTER (WHERE d.defect_id IS NOT NULL), '{}')
FROM mes.station s LEFT JOIN mes.defect d USING (station_id) WHERE s.line_id = %s

-- name: read_events
-- Events as one string of fixed-width records (mes.kpi.sums.EVENT_DTYPE): the client takes it as it is, where a COPY would
-- hand it each row by itself (1.8 against 2.8 us a row).
SELECT string_agg(
    timestamptz_send(at) || int8send(hashtextextended(unit, 0)) || int8send(seq) || float4send(cycle_s)
    || int2send(station_id) || int2send(attempt) || int2send(result) || int2send(defect_id), ''::bytea)
FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s

-- name: drop_buckets
-- Sums of buckets that are about to be replaced.
DELETE FROM kpi.station_bucket WHERE line_id = %s AND bucket = ANY(%s)

-- name: drop_defect_buckets
-- Defects of buckets that are about to be replaced.
DELETE FROM kpi.defect_bucket WHERE line_id = %s AND bucket = ANY(%s)

-- name: drop_hours
-- Hours that are about to be replaced.
DELETE FROM kpi.station_hour WHERE line_id = %(line)s AND hour = ANY(%(hours)s)

-- name: sum_hours
-- Hours from the buckets inside them.
WITH bucket AS (
    SELECT h.hour, b.* FROM unnest(%(hours)s::timestamptz[]) AS h (hour)
    JOIN kpi.station_bucket b ON b.line_id = %(line)s AND b.bucket >= h.hour AND b.bucket < h.hour + interval '1 hour'
), histogram AS (
    SELECT hour, station_id, array_agg(bin ORDER BY bin) AS bins, array_agg(n ORDER BY bin) AS counts
    FROM (
        SELECT b.hour, b.station_id, t.bin, sum(t.n)::bigint AS n
        FROM bucket b CROSS JOIN LATERAL unnest(b.cycle_bin, b.cycle_n) AS t (bin, n) GROUP BY b.hour, b.station_id, t.bin
    ) x GROUP BY hour, station_id
)
INSERT INTO kpi.station_hour
SELECT %(line)s, b.hour, b.station_id, sum(pass), sum(rework), sum(scrap), sum(inspected), sum(first_pass_good),
    min(h.bins), min(h.counts), max(last_event_at)
FROM bucket b JOIN histogram h USING (hour, station_id) GROUP BY b.hour, b.station_id

-- name: drop_day
-- A day that is about to be replaced.
DELETE FROM kpi.station_day WHERE line_id = %(line)s AND production_day = %(day)s

-- name: drop_defect_day
-- Defects of a day that is about to be replaced.
DELETE FROM kpi.defect_day WHERE line_id = %(line)s AND production_day = %(day)s

-- name: sum_day
-- A production day from its hours.
WITH hour AS (
    SELECT * FROM kpi.station_hour WHERE line_id = %(line)s AND hour >= %(begin)s AND hour < %(end)s
), histogram AS (
    SELECT station_id, array_agg(bin ORDER BY bin) AS bins, array_agg(n ORDER BY bin) AS counts
    FROM (
        SELECT b.station_id, t.bin, sum(t.n)::bigint AS n
        FROM hour b CROSS JOIN LATERAL unnest(b.cycle_bin, b.cycle_n) AS t (bin, n) GROUP BY b.station_id, t.bin
    ) x GROUP BY station_id
)
INSERT INTO kpi.station_day
SELECT %(line)s, %(day)s, station_id, sum(pass), sum(rework), sum(scrap), sum(inspected), sum(first_pass_good),
    min(h.bins), min(h.counts), max(last_event_at)
FROM hour JOIN histogram h USING (station_id) GROUP BY station_id

-- name: sum_defect_day
-- Defects of a production day from its buckets.
INSERT INTO kpi.defect_day
SELECT %(line)s, %(day)s, defect_id, sum(n) FROM kpi.defect_bucket
WHERE line_id = %(line)s AND bucket >= %(begin)s AND bucket < %(end)s GROUP BY defect_id

-- name: sum_line_day
-- A line's day from its stations: good counts at the count point, scrap anywhere.
INSERT INTO kpi.line_day AS d
SELECT %(line)s, %(day)s, %(begin)s, %(end)s,
    coalesce(sum(x.pass + x.rework + x.scrap), 0), coalesce(sum(x.pass) FILTER (WHERE s.is_count_point), 0), coalesce(sum(x.scrap), 0), max(x.last_event_at)
FROM kpi.station_day x JOIN mes.station s USING (station_id) WHERE x.line_id = %(line)s AND x.production_day = %(day)s
ON CONFLICT (line_id, production_day) DO UPDATE SET
    starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at, events = EXCLUDED.events,
    good = EXCLUDED.good, scrap = EXCLUDED.scrap, last_event_at = EXCLUDED.last_event_at

-- name: latest_days
-- The newest production day of each line as the views show it.
SELECT DISTINCT ON (t.line) s.code, l.area, l.code, t.production_day, t.good, t.target, t.attainment, t.scrap, y.output_yield, y.rolled_throughput_yield,
    (extract(epoch FROM t.last_event_at) * 1000)::bigint
FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day)
JOIN mes.line l ON l.path = t.line JOIN mes.site s USING (site_id)
ORDER BY t.line, t.production_day DESC

-- name: line_paths
-- Names of the lines.
SELECT path FROM mes.line WHERE active ORDER BY path

-- name: daily_report
-- Throughput and yield of lines and days, side by side.
SELECT t.line, t.production_day, t.product, t.good, t.target, t.attainment, t.gap, t.scrap, t.events, t.energy_mwh, t.run_rate_gwh,
    t.run_rate_days_per_year, t.is_closed, y.output_yield, y.rolled_throughput_yield, y.first_pass_yield
FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day)
WHERE (%(line)s::text IS NULL OR t.line = %(line)s) AND (%(day)s::date IS NULL OR t.production_day = %(day)s)
ORDER BY t.production_day DESC, t.line LIMIT %(most)s

-- The board: views of `report` and nothing else.

-- name: board
-- Each line with its two newest production days that have events, and the hours of the newer one: one statement, so one snapshot.
SELECT l.line, l.name, l.site_name, l.zone, coalesce(t.product, l.product) AS product,
    t.nth, t.production_day, t.good, t.target, t.attainment, t.gap, t.scrap, t.events, t.last_event_at, t.is_closed,
    y.output_yield, y.rolled_throughput_yield, h.hours
FROM report.line l
LEFT JOIN LATERAL (
    SELECT d.*, row_number() OVER (ORDER BY d.production_day DESC) AS nth
    FROM report.daily_throughput d WHERE d.line = l.line AND d.events > 0
    ORDER BY d.production_day DESC LIMIT 2
) t ON true
LEFT JOIN LATERAL (
    SELECT d.output_yield, d.rolled_throughput_yield
    FROM report.daily_yield d WHERE d.line = t.line AND d.production_day = t.production_day
) y ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('hour_starts_at', d.hour_starts_at, 'hour_of_day', d.hour_of_day,
        'good', d.good, 'scrap', d.scrap, 'target', d.target) ORDER BY d.hour_of_day) AS hours
    FROM report.hourly_throughput d WHERE t.nth = 1 AND d.line = t.line AND d.production_day = t.production_day
) h ON true
WHERE l.is_active
ORDER BY l.line, t.nth
