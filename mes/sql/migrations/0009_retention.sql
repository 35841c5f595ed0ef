-- How long events are kept, and from when on they are there. Sums stay for ever.
CREATE TABLE mes.retention (
    only_one      boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    keep_days     integer CHECK (keep_days BETWEEN 1 AND 36500),
    compress_days integer DEFAULT 7 CHECK (compress_days BETWEEN 1 AND 36500),
    horizon       timestamptz,
    cleared       timestamptz
);
INSERT INTO mes.retention DEFAULT VALUES;
COMMENT ON COLUMN mes.retention.keep_days IS 'events of days that ended longer ago are dropped; NULL: none';
COMMENT ON COLUMN mes.retention.compress_days IS 'where TimescaleDB may, events are compressed after so many days; NULL: never';
COMMENT ON COLUMN mes.retention.horizon IS 'events before are gone or about to go, and none is stored any more; a UTC midnight, never moved back; NULL: none was ever dropped';
COMMENT ON COLUMN mes.retention.cleared IS 'where they are deleted: how far that is done';

-- The same for each line, moved up to the end of the production day in which the horizon lies: that day can no longer be summed
-- from its events either. A line that has no row yet has lost none of its events.
CREATE TABLE mes.line_horizon (
    line_id smallint PRIMARY KEY REFERENCES mes.line,
    horizon timestamptz NOT NULL
);

CREATE TABLE mes.dropped (
    begins     timestamptz NOT NULL,
    ends       timestamptz PRIMARY KEY,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    dropped_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE mes.dropped IS 'What was dropped, stretch by stretch.';

-- Whoever adds events or counts them holds them until its transaction ends. Only then is the horizon of the line certain: NULL
-- where none was ever dropped. 1835365220 is "mesd". A function in this language sees what was committed while it waited.
CREATE FUNCTION mes.hold_events(line smallint) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1835365220);
    RETURN coalesce((SELECT h.horizon FROM mes.line_horizon h WHERE h.line_id = line), (SELECT r.horizon FROM mes.retention r));
END $$;

-- Up to where events may go if so many days are kept: whole days, closed on every line, of which no bucket is marked. The 26 hours
-- are no less than a production day: that of a mark whose day was never summed is not known.
CREATE FUNCTION mes.droppable(keep integer) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT date_trunc('day', least(
        w.wanted,
        (SELECT min(d.starts_at) FROM kpi.line_day d LEFT JOIN mes.day_report r USING (line_id, production_day)
         WHERE d.starts_at < w.wanted AND r.closed_at IS NULL),
        (SELECT min(coalesce(
            (SELECT d.starts_at FROM kpi.line_day d WHERE d.line_id = m.line_id AND d.starts_at <= m.bucket AND d.ends_at > m.bucket),
            m.bucket - interval '26 hours'
        )) FROM mes.dirty_bucket m WHERE m.bucket < w.wanted + interval '26 hours')
    ), 'UTC')
    FROM (SELECT now() - keep * interval '24 hours' AS wanted) AS w
$$;

-- Move the horizon to where the settings want it, while nobody holds events; it is not waited for long, as ingest waits behind it.
-- From then on nobody needs what lies before. The horizon as it is now.
CREATE FUNCTION mes.advance_horizon() RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    keep integer;
    before timestamptz;
    upto timestamptz;
BEGIN
    SELECT r.keep_days, r.horizon INTO keep, before FROM mes.retention r;
    IF keep IS NULL OR mes.droppable(keep) <= before THEN
        RETURN before;
    END IF;
    PERFORM pg_advisory_xact_lock(1835365220);
    SELECT r.keep_days, r.horizon INTO keep, before FROM mes.retention r;
    upto := mes.droppable(keep);
    IF keep IS NULL OR upto <= before THEN
        RETURN before;
    END IF;
    INSERT INTO mes.line_horizon AS h (line_id, horizon)
    SELECT l.line_id, greatest(upto, (SELECT max(d.ends_at) FROM kpi.line_day d WHERE d.line_id = l.line_id AND d.starts_at < upto))
    FROM mes.line l
    ON CONFLICT (line_id) DO UPDATE SET horizon = greatest(h.horizon, EXCLUDED.horizon);
    UPDATE mes.retention SET horizon = upto;
    RETURN upto;
END $$;

-- Drop the oldest day of events before the horizon, as one chunk where they lie in chunks; its end, NULL when there is none, or when
-- somebody else is at it. Owned by whoever owns the events, as chunks are dropped by nobody else. 1835365221 is "mese".
CREATE FUNCTION mes.drop_events() RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    upto timestamptz;
    done timestamptz;
    oldest timestamptz;
    following timestamptz;
    chunked boolean := false;
    chunk text;
BEGIN
    SELECT r.horizon, coalesce(r.cleared, '-infinity') INTO upto, done FROM mes.retention r;
    IF upto IS NULL OR NOT pg_try_advisory_xact_lock(1835365221) THEN
        RETURN NULL;
    END IF;
    IF to_regclass('timescaledb_information.chunks') IS NOT NULL THEN
        EXECUTE $q$SELECT EXISTS (SELECT FROM timescaledb_information.hypertables
            WHERE hypertable_schema = 'mes' AND hypertable_name = 'cell_event')$q$ INTO chunked;
    END IF;
    IF chunked THEN
        EXECUTE $q$SELECT range_start, range_end FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'mes' AND hypertable_name = 'cell_event' AND range_end <= $1 ORDER BY range_end LIMIT 1$q$
        INTO oldest, following USING upto;
        IF following IS NULL THEN
            RETURN NULL;
        END IF;
        -- The table first, as readers do: by itself drop_chunks begins with its indexes, and the two meet in a deadlock.
        FOR chunk IN EXECUTE $q$SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'mes' AND hypertable_name = 'cell_event' AND range_end <= $1$q$ USING following LOOP
            EXECUTE 'LOCK TABLE ' || chunk || ' IN ACCESS EXCLUSIVE MODE';
        END LOOP;
        EXECUTE (
            SELECT format('SELECT %I.drop_chunks(''mes.cell_event''::regclass, older_than => $1)', n.nspname)
            FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = 'timescaledb'
        ) USING following;
    ELSE
        SELECT date_trunc('day', min(o.at), 'UTC') INTO oldest FROM mes.line l CROSS JOIN LATERAL (
            SELECT e.at FROM mes.cell_event e WHERE e.line_id = l.line_id AND e.at >= done AND e.at < upto ORDER BY e.at LIMIT 1
        ) AS o;
        following := oldest + interval '24 hours';
        DELETE FROM mes.cell_event e USING mes.line l WHERE e.line_id = l.line_id AND e.at >= oldest AND e.at < following;
        UPDATE mes.retention SET cleared = coalesce(following, upto);
        IF following IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO mes.dropped (begins, ends) VALUES (oldest, following)
    ON CONFLICT (ends) DO UPDATE SET dropped_at = now(), dropped_by = EXCLUDED.dropped_by;
    RETURN following;
END $$;

-- All of it, in the form in which TimescaleDB calls its background jobs.
CREATE PROCEDURE mes.run_retention(job_id integer DEFAULT NULL, config jsonb DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mes.advance_horizon();
    COMMIT;
    WHILE mes.drop_events() IS NOT NULL LOOP
        COMMIT;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION mes.droppable(integer), mes.advance_horizon(), mes.drop_events() FROM PUBLIC;
REVOKE ALL ON PROCEDURE mes.run_retention(integer, jsonb) FROM PUBLIC;
