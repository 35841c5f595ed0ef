-- What `mes doctor` asks: it reads and changes nothing.

-- name: doctor_settings
-- Settings of the server as this session has them; those that the role may not see are missing.
SELECT name, setting FROM pg_settings WHERE name = ANY(%s)

-- name: doctor_overrides
-- Where a role or a database has settings of its own.
SELECT coalesce(r.rolname, '') AS role, coalesce(d.datname, '') AS database, unnest(s.setconfig)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: doctor_timescaledb
-- TimescaleDB in this database and on the server: versions, licence, background workers.
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
    (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
    current_setting('timescaledb.license', true), current_setting('timescaledb.max_background_workers', true)

-- name: doctor_hypertables
-- Which tables are hypertables; only where there is TimescaleDB.
SELECT hypertable_name::text FROM timescaledb_information.hypertables WHERE hypertable_schema = 'mes'

-- name: doctor_standby
-- Whether the server takes no writes.
SELECT pg_is_in_recovery()

-- name: doctor_archiver
-- Whether the log is archived, and how many receive it.
SELECT archived_count, failed_count, last_archived_time, last_failed_time, (SELECT count(*) FROM pg_stat_replication)
FROM pg_stat_archiver

-- name: doctor_slots
-- What replication slots that nobody uses hold back, bytes of log.
SELECT slot_name,
    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint
FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL

-- name: doctor_zones
-- For the sites' zones that the server knows, how far they are off UTC at some instants, seconds.
SELECT z.zone, array_agg(extract(epoch FROM (t AT TIME ZONE z.zone) - (t AT TIME ZONE 'UTC'))::integer ORDER BY t)
FROM (SELECT DISTINCT zone FROM mes.site) AS z JOIN pg_timezone_names n ON n.name = z.zone CROSS JOIN unnest(%s::timestamptz[]) AS t
GROUP BY z.zone

-- name: doctor_site_zones
-- The zones that the sites are in.
SELECT DISTINCT zone FROM mes.site ORDER BY zone

-- name: doctor_connections
-- Clients that are connected, and how many there may be.
SELECT count(*) FILTER (WHERE backend_type = 'client backend'),
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
FROM pg_stat_activity

-- name: doctor_transactions
-- Transactions that have been open for long: who, for how many seconds, whether nothing is done in them; then sessions that cannot be seen.
SELECT pid, application_name, coalesce(usename, '') AS role, extract(epoch FROM now() - xact_start)::double precision AS open_s,
    state LIKE 'idle in transaction%%' AS is_idle
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < now() - %(longest)s
    AND (state LIKE 'idle in transaction%%' OR xact_start < now() - 3 * %(longest)s)
ORDER BY xact_start

-- name: doctor_dead_marks
-- Rows of the marks' table that are deleted and not yet cleared away, and those that stand.
SELECT n_dead_tup, n_live_tup FROM pg_stat_all_tables WHERE schemaname = 'mes' AND relname = 'dirty_bucket'

-- name: doctor_encryption
-- Whether this very connection is encrypted: protocol, cipher.
SELECT ssl, version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()

-- name: doctor_own_role
-- Who asks, and whether everything is allowed to that role.
SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user

-- name: doctor_roles
-- Which of these roles exist, and whether everything is allowed to them.
SELECT rolname, rolsuper FROM pg_roles WHERE rolname = ANY(%s)

-- name: doctor_rights
-- What a role may do to which tables and views of the database, those of extensions apart.
SELECT n.nspname || '.' || c.relname, p.what
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p (what)
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$)'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    AND has_schema_privilege(%(role)s, n.oid, 'USAGE') AND has_table_privilege(%(role)s, c.oid, p.what)
ORDER BY 1, 2

-- name: doctor_clock
-- The server's clock.
SELECT clock_timestamp()

-- name: doctor_machine_clocks
-- What machines sent lately: line, machine, events, median seconds from their time to their receipt.
SELECT l.path, s.code || '/' || m.code, count(*),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.received_at - e.at))::double precision
FROM mes.line l
CROSS JOIN LATERAL (
    SELECT machine_id, at, received_at FROM mes.cell_event
    WHERE line_id = l.line_id AND at >= now() - interval '2 hours' AND at < now() + interval '1 day'
        AND received_at >= now() - interval '15 minutes'
) AS e
JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id)
WHERE l.active
GROUP BY 1, 2 ORDER BY 1, 2

-- name: doctor_ahead
-- Machines whose events of these days were more than five minutes ahead of the clock that received them.
SELECT l.path, s.code || '/' || m.code, sum(d.ahead)::bigint
FROM kpi.machine_day d JOIN mes.line l USING (line_id) JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id)
WHERE d.ahead > 0 AND d.production_day >= current_date - 1
GROUP BY 1, 2 ORDER BY 3 DESC

-- name: doctor_leases
-- Each active line, when its session was last announced, and who holds its lease: process of the server, NULL where nobody does.
SELECT l.path, n.established_at, k.pid
FROM mes.line l LEFT JOIN mes.line_session n USING (line_id)
LEFT JOIN pg_locks k ON k.locktype = 'advisory' AND k.classid = %s::bigint::oid AND k.objid = l.line_id::bigint::oid AND k.objsubid = 2
    AND k.granted AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE l.active ORDER BY l.path

-- name: doctor_rollups
-- How many rollups are connected, and how many of them are at a day, which they lock meanwhile.
SELECT count(*), count(*) FILTER (
    WHERE EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid AND k.locktype = 'advisory' AND k.classid = %s::bigint::oid AND k.granted)
) FROM pg_stat_activity a WHERE datname = current_database() AND application_name = 'mes rollup'

-- name: doctor_marks_left
-- Buckets that still wait of those whose marks go up to a number.
SELECT count(DISTINCT (line_id, bucket)), min(bucket) FROM mes.dirty_bucket WHERE mark_id <= %s

-- name: doctor_quarantine
-- What waits in the quarantine, by reason: entries, since when, number of the newest.
SELECT reason, count(*), min(first_seen_at), max(quarantine_id) FROM mes.quarantine GROUP BY reason ORDER BY 2 DESC, 1

-- name: doctor_gaps
-- What is missing, by line: gaps, machines, sequence numbers.
SELECT l.path, count(*), count(DISTINCT g.machine_id), sum(upper(r) - lower(r))::bigint
FROM mes.machine_ledger g JOIN mes.machine m USING (machine_id) JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id)
CROSS JOIN LATERAL unnest(int8multirange(int8range(1, upper(g.received))) - g.received - g.closed) AS r
WHERE NOT isempty(g.received)
GROUP BY l.path ORDER BY l.path

-- name: doctor_open_days
-- Days that should have been closed by now, by line: how many, the oldest.
SELECT l.path, count(*), min(r.production_day)
FROM mes.day_report r JOIN mes.line l USING (line_id)
WHERE r.closed_at IS NULL AND r.ends_at < now() - %s GROUP BY l.path ORDER BY l.path

-- name: doctor_last_received
-- Each active line, and how many seconds ago something came from it: the latest of its newest events, as a clock may be ahead.
SELECT l.line_id, l.path, (
    SELECT extract(epoch FROM now() - max(e.received_at))::double precision
    FROM (SELECT received_at FROM mes.cell_event WHERE line_id = l.line_id ORDER BY at DESC LIMIT 200) AS e
)
FROM mes.line l WHERE l.active ORDER BY l.path

-- name: doctor_plant
-- How many lines are active, which have no target in force, and what the plant was loaded from.
SELECT (SELECT count(*) FROM mes.line WHERE active),
    (SELECT coalesce(array_agg(l.path ORDER BY l.path), '{}') FROM mes.line l
     WHERE l.active AND NOT EXISTS (SELECT FROM mes.target t WHERE t.line_id = l.line_id AND t.from_day <= current_date)),
    (SELECT digest FROM mes.plant_version ORDER BY version DESC LIMIT 1),
    (SELECT max(seeded_at) FROM mes.plant_version)

-- name: doctor_has
-- Whether a table is there.
SELECT to_regclass(%s) IS NOT NULL

-- name: doctor_retention
-- For how many days events are kept, and from when on they are there.
SELECT keep_days, horizon FROM mes.retention

-- name: doctor_system
-- What tells this server's data from any other's.
SELECT system_identifier FROM pg_control_system()

-- name: doctor_growth
-- Bytes of the database; events that it holds, of production days since an instant; the last week's days that are over and had events, and
-- the events in them.
SELECT pg_database_size(current_database()), coalesce(sum(events) FILTER (WHERE held), 0)::bigint,
    count(DISTINCT production_day) FILTER (WHERE recent), coalesce(sum(events) FILTER (WHERE recent), 0)::bigint
FROM (
    SELECT production_day, events, starts_at >= %s AS held, events > 0 AND ends_at < now() AND ends_at > now() - interval '8 days' AS recent
    FROM kpi.line_day
) AS d
