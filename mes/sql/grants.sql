-- What each role may do: a row for each thing, applied as the last step of every `mes migrate` to the roles that exist. What is
-- not here nobody may do. deploy/database/roles.sql makes the roles; without them (a trial) everything is the owner's.
DO $$
DECLARE
    roles text := (
        SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles
        WHERE rolname IN ('mes_ingest', 'mes_rollup', 'mes_operator', 'mes_dashboard')
    );
    statement text;
BEGIN
    IF roles IS NULL THEN
        RETURN;
    END IF;

    -- From nothing each time, so that a grant which is taken out below is gone. Tables and functions of tomorrow have none either.
    FOREACH statement IN ARRAY ARRAY['SCHEMA %I', 'ALL TABLES IN SCHEMA %I', 'ALL SEQUENCES IN SCHEMA %I', 'ALL ROUTINES IN SCHEMA %I'] LOOP
        EXECUTE (
            SELECT string_agg(format('REVOKE ALL ON ' || statement || ' FROM PUBLIC, %s', name, roles), '; ')
            FROM unnest(ARRAY['mes', 'kpi', 'report']) AS name
        );
    END LOOP;
    ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;

    FOR statement IN
        SELECT format('GRANT %s ON %s TO %I', g.may, g.what, role)
        FROM (VALUES
            -- The services read what plant and ledger say, and nobody but dashboards would miss the rest.
            ('USAGE', 'SCHEMA mes', 'mes_ingest mes_rollup mes_operator'),
            ('SELECT', 'ALL TABLES IN SCHEMA mes', 'mes_ingest mes_rollup mes_operator'),
            ('USAGE', 'SCHEMA kpi', 'mes_rollup mes_operator'),
            ('SELECT', 'ALL TABLES IN SCHEMA kpi', 'mes_rollup mes_operator'),
            ('USAGE', 'SCHEMA report', 'mes_rollup mes_operator mes_dashboard'),
            ('SELECT', 'ALL TABLES IN SCHEMA report', 'mes_rollup mes_operator mes_dashboard'),
            ('EXECUTE', 'ALL FUNCTIONS IN SCHEMA report', 'mes_rollup mes_operator mes_dashboard'),

            -- A batch, whoever stores it: ingest, or an operator who replays the quarantine. Events are added, never changed.
            ('INSERT', 'mes.cell_event', 'mes_ingest mes_operator'),
            ('INSERT', 'mes.state_event', 'mes_ingest mes_operator'),
            ('INSERT (line_id, bucket)', 'mes.dirty_bucket', 'mes_ingest mes_rollup mes_operator'),
            ('INSERT (machine_id, boot, received, duplicates)', 'mes.machine_ledger', 'mes_ingest mes_operator'),
            ('UPDATE (received, duplicates)', 'mes.machine_ledger', 'mes_ingest mes_operator'),
            ('INSERT', 'mes.duplicate', 'mes_ingest mes_operator'),
            ('UPDATE (n)', 'mes.duplicate', 'mes_ingest mes_operator'),
            ('INSERT (reason, detail, topic, payload, machine_id, boot, seq, counted, digest)', 'mes.quarantine', 'mes_ingest mes_operator'),
            ('UPDATE (last_seen_at, times, reason, detail, machine_id, boot, seq, counted)', 'mes.quarantine', 'mes_ingest mes_operator'),
            ('INSERT', 'mes.line_session', 'mes_ingest'),
            ('UPDATE (established_at, filters)', 'mes.line_session', 'mes_ingest'),

            -- Sums are replaced, marks taken (to lock one needs the right to update something), days reported and closed.
            ('INSERT, UPDATE, DELETE', 'ALL TABLES IN SCHEMA kpi', 'mes_rollup'),
            ('DELETE', 'mes.dirty_bucket', 'mes_rollup'),
            ('UPDATE (mark_id)', 'mes.dirty_bucket', 'mes_rollup'),
            ('INSERT, UPDATE', 'mes.day_report', 'mes_rollup'),
            ('INSERT', 'mes.restatement', 'mes_rollup'),
            ('INSERT, UPDATE', 'mes.alert', 'mes_rollup'),
            ('INSERT, UPDATE', 'mes.alert_history', 'mes_rollup'),

            -- Who stores or counts events keeps them from being dropped meanwhile; how long they are kept is for the operator to say.
            ('EXECUTE', 'FUNCTION mes.hold_events(smallint)', 'mes_ingest mes_rollup mes_operator'),
            ('EXECUTE', 'FUNCTION mes.droppable(integer)', 'mes_rollup mes_operator'),
            ('EXECUTE', 'FUNCTION mes.advance_horizon()', 'mes_rollup mes_operator'),
            ('EXECUTE', 'FUNCTION mes.drop_events()', 'mes_rollup mes_operator'),
            ('UPDATE (keep_days)', 'mes.retention', 'mes_operator'),

            -- Corrections by hand. Who and when are not for the one who corrects to write: they are defaults.
            ('UPDATE (closed)', 'mes.machine_ledger', 'mes_operator'),
            ('INSERT (machine_id, boot, seqs, why)', 'mes.gap_closing', 'mes_operator'),
            ('INSERT (machine_id, boot, seq, line_id, unit, scrapped_at, booked_at, why)', 'mes.unscrap', 'mes_operator'),
            ('DELETE', 'mes.quarantine', 'mes_operator'),
            ('INSERT (quarantine_id, first_seen_at, last_seen_at, times, reason, detail, topic, bytes, machine_id, boot, seq, digest, why)',
                'mes.quarantine_discarded', 'mes_operator')
        ) AS g (may, what, whom) CROSS JOIN LATERAL string_to_table(g.whom, ' ') AS role
        WHERE to_regrole(role) IS NOT NULL
        UNION ALL
        -- Views call functions with the rights of who asks. Those that run with the caller's own rights give nothing away.
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, role)
        FROM pg_proc p CROSS JOIN unnest(ARRAY['mes_rollup', 'mes_operator', 'mes_dashboard']) AS role
        WHERE p.pronamespace = 'kpi'::regnamespace AND NOT p.prosecdef AND p.prokind <> 'p' AND to_regrole(role) IS NOT NULL
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;
