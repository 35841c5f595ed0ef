-- The roles of mes with their passwords, in the database that holds it or is to hold it. For a superuser; any number of times.
--
--     createdb mes
--     MES_SECRETS=/etc/mes/secrets psql -X -d mes -f roles.sql
--
-- MES_SECRETS (/run/secrets unless set) is a folder with a file for each role that logs in, which holds its password. What the roles may do
-- with tables stands in mes/sql/grants.sql, and `mes migrate` applies it. deploy/database/README.md says who is who.
\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\set owner_password `head -n 1 "${MES_SECRETS:-/run/secrets}/mes_owner"`
\set ingest_password `head -n 1 "${MES_SECRETS:-/run/secrets}/mes_ingest"`
\set rollup_password `head -n 1 "${MES_SECRETS:-/run/secrets}/mes_rollup"`
\set dashboard_password `head -n 1 "${MES_SECRETS:-/run/secrets}/mes_dashboard"`

SELECT '' IN (:'owner_password', :'ingest_password', :'rollup_password', :'dashboard_password') AS some_are_missing,
    current_database() IN ('postgres', 'template0', 'template1') AS is_no_place \gset
\if :some_are_missing
    DO $$ BEGIN RAISE 'a password is missing: MES_SECRETS must name a folder with the files mes_owner, mes_ingest, mes_rollup, mes_dashboard'; END $$;
\endif
\if :is_no_place
    DO $$ BEGIN RAISE 'this database is the server''s own: make one for mes (createdb mes) and give it with -d'; END $$;
\endif

-- Passwords stay out of the server's log, whatever it logs, and out of pg_stat_statements.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET pg_stat_statements.track_utility = off;
SET password_encryption = 'scram-sha-256';
SET client_min_messages = warning;
SET search_path = pg_catalog;

BEGIN;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['mes_owner', 'mes_ingest', 'mes_rollup', 'mes_dashboard', 'mes_operator']) AS name WHERE to_regrole(name) IS NULL \gexec

ALTER ROLE mes_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE mes_ingest LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'ingest_password';
ALTER ROLE mes_rollup LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'rollup_password';
ALTER ROLE mes_dashboard LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 30 PASSWORD :'dashboard_password';
-- People who correct things have logins of their own, members of this one, so that the record names them.
ALTER ROLE mes_operator NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

-- Courtesies: a session may change them. What holds are grants, and the limit of connections.
ALTER ROLE mes_dashboard SET statement_timeout = '30s';
ALTER ROLE mes_dashboard SET idle_in_transaction_session_timeout = '60s'; -- `mes migrate` waits for whoever reads a view
ALTER ROLE mes_dashboard SET default_transaction_read_only = on;

ALTER DATABASE :"DBNAME" OWNER TO mes_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO mes_ingest, mes_rollup, mes_dashboard, mes_operator;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- The lease of a line is an advisory lock: who can take one can stop a line. Large objects need no grant and fill disks.
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure),
    format('GRANT EXECUTE ON FUNCTION %s TO mes_owner, mes_ingest, mes_rollup, mes_operator', oid::regprocedure)
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_' \gexec
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure)
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea') \gexec

-- What another role has made before there were these: `mes migrate` goes on from there.
SELECT format('ALTER SCHEMA %I OWNER TO mes_owner', nspname) FROM pg_namespace WHERE nspname IN ('mes', 'kpi', 'report') \gexec
SELECT format('ALTER %s %s OWNER TO mes_owner', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
FROM pg_class
WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('mes', 'kpi', 'report')) AND relkind IN ('r', 'p', 'v')
    AND relowner <> 'mes_owner'::regrole \gexec
SELECT format('ALTER ROUTINE %s OWNER TO mes_owner', oid::regprocedure)
FROM pg_proc WHERE pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('mes', 'kpi', 'report')) AND proowner <> 'mes_owner'::regrole \gexec
SELECT format('ALTER TYPE %s OWNER TO mes_owner', oid::regtype)
FROM pg_type WHERE typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('mes', 'kpi', 'report')) AND typtype IN ('e', 'd')
    AND typowner <> 'mes_owner'::regrole \gexec

COMMIT;
