"""Revision 0001 of the tables that every service has: event log, outboxes, inbox, idempotency keys, signing keys.

In `write_check` nothing stays: the readiness check writes to it.

The first migration of each service calls it. Like any migration its statements never change once they were applied.
"""

from typing import Final

from alembic import op

from chassis.database.migrations import grant, run

SQL = """
CREATE TABLE event_log (
    id uuid PRIMARY KEY,
    exchange varchar NOT NULL,
    routing_key varchar NOT NULL,
    occurred_at timestamptz NOT NULL,
    events smallint NOT NULL,
    cloudevents varchar NOT NULL
) PARTITION BY RANGE (id);
DO $$BEGIN ALTER TABLE event_log ALTER cloudevents SET COMPRESSION lz4; EXCEPTION WHEN feature_not_supported THEN END$$;
CREATE TABLE event_log_rest PARTITION OF event_log DEFAULT;
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    retry_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE TABLE journal_outbox (
    id uuid PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE TABLE inbox (
    id uuid,
    source varchar,
    members bigint NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (id, source)
);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at);
CREATE TABLE idempotency_keys (
    user_id uuid,
    key varchar,
    fingerprint varchar NOT NULL,
    status integer,
    body varchar,
    location varchar,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys USING brin (created_at);
CREATE TABLE signing_keys (
    key_id varchar PRIMARY KEY,
    x varchar NOT NULL,
    valid_until timestamptz NOT NULL
);
CREATE TABLE operator_actions (
    id uuid PRIMARY KEY,
    operator_id uuid NOT NULL,
    action varchar NOT NULL,
    subject uuid NOT NULL,
    reason varchar,
    correlation_id varchar NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX operator_actions_subject ON operator_actions (subject);
CREATE UNLOGGED TABLE write_check (filler varchar NOT NULL);
ALTER TABLE write_check ALTER filler SET STORAGE PLAIN;
"""

FUNCTIONS = """
CREATE FUNCTION event_group(event uuid) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT overlay(event::text PLACING lpad(to_hex(get_byte(uuid_send(event), 15) & 192), 2, '0') FROM 35)::uuid
$$;;
CREATE FUNCTION event_member(event uuid) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$
    SELECT 1::bigint << (get_byte(uuid_send(event), 15) & 63)
$$;;
CREATE VIEW processed_events AS
    SELECT overlay(id::text PLACING lpad(to_hex((get_byte(uuid_send(id), 15) + n)), 2, '0') FROM 35)::uuid AS event_id,
        source, received_at
    FROM inbox, generate_series(0, 63) AS n WHERE members >> n & 1 = 1;;
CREATE FUNCTION least_id(moment timestamptz) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;;
CREATE FUNCTION make_event_log_partitions() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    day timestamptz := date_trunc('day', now(), 'UTC');
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(4242002);
    FOR ahead IN 0..2 LOOP
        part := 'event_log_' || to_char(day AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(part) IS NULL THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE TABLE public.%I (LIKE event_log INCLUDING ALL)', part);
                EXECUTE pg_catalog.format(
                    'ALTER TABLE event_log ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                    part, least_id(day), least_id(day + interval '1 day'));
            EXCEPTION WHEN check_violation THEN
                NULL;  -- events of this day are in the default partition already, and stay there
            END;
        END IF;
        day := day + interval '1 day';
    END LOOP;
END
$$;;
CREATE FUNCTION drop_event_log_partitions(days integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    oldest timestamptz := date_trunc('day', now(), 'UTC') - make_interval(days => days);
    part text;
    dropped integer := 0;
BEGIN
    IF days < 7 THEN
        RAISE EXCEPTION 'the event log is kept for a week at least';
    END IF;
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'event_log'::regclass AND relname ~ '^event_log_[0-9]{8}$'
            AND relname < 'event_log_' || to_char(oldest AT TIME ZONE 'UTC', 'YYYYMMDD')
    LOOP
        LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE;  -- then nobody commits to it unseen
        IF NOT EXISTS (
            SELECT FROM outbox WHERE id < least_id(oldest)
            UNION ALL SELECT FROM journal_outbox WHERE id < least_id(oldest)
        ) THEN
            EXECUTE pg_catalog.format('DROP TABLE public.%I', part);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    RETURN dropped;
END
$$;;
CREATE FUNCTION purge_event_log_rest(days integer, most integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    purged integer;
BEGIN
    IF days < 7 THEN
        RAISE EXCEPTION 'the event log is kept for a week at least';
    END IF;
    DELETE FROM event_log_rest WHERE id = ANY(ARRAY(
        SELECT id FROM event_log_rest r
        WHERE occurred_at < now() - make_interval(days => days)
            AND NOT EXISTS (SELECT FROM outbox WHERE outbox.id = r.id)
            AND NOT EXISTS (SELECT FROM journal_outbox WHERE journal_outbox.id = r.id)
        LIMIT most));
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END
$$;;
CREATE FUNCTION published_events(
    about varchar, keys varchar[], low uuid, high uuid, since timestamptz, until timestamptz)
RETURNS TABLE (id uuid, type varchar, subject varchar, correlation_id varchar, causation_id uuid,
    committed_at timestamptz, batch smallint, row_id uuid)
STABLE LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT e.id, e.type, e.subject, e.correlationid, e.causationid, l.occurred_at, l.events, l.id
    FROM event_log l, json_to_recordset(('[' || l.cloudevents || ']')::json)
        AS e (id uuid, type varchar, subject varchar, correlationid varchar, causationid uuid)
    WHERE l.id >= low AND l.id < high AND l.occurred_at BETWEEN since AND until
        AND (keys IS NULL OR l.routing_key = ANY(keys))
        AND strpos(l.cloudevents, about) > 0 AND about IN (e.id::text, e.subject, e.correlationid)
$$;;
SELECT make_event_log_partitions()
"""
"""`event_group` and `event_member`: where the inbox has an event. `processed_events`: the inbox, a row for each event.
`least_id`: the least UUIDv7 of a moment. `make_event_log_partitions`: those of today and
the next two days. `drop_event_log_partitions`: those older than `days`, unless events of that time are unpublished;
returns how many. `purge_event_log_rest`: the same for up to `most` rows of the default partition, by the server's time.
The three are separate transactions: together they would wait for a relay that waits for them.
`published_events`: events by id, subject or flow, whose row has an id and a time in a range; everybody who may connect
may call it, as it returns no body. The text is searched last, in rows that meet everything else."""


MAINTENANCE: Final = "make_event_log_partitions, drop_event_log_partitions, purge_event_log_rest"


def upgrade() -> None:
    """Create the tables."""
    run(SQL)
    for statement in FUNCTIONS.split(";;\n"):
        op.execute(statement)


def grant_all() -> None:
    """What the service's role may do, and nobody else."""
    op.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    op.execute(f"REVOKE ALL ON FUNCTION {MAINTENANCE} FROM PUBLIC")
    grant("EXECUTE", f"FUNCTION {MAINTENANCE}")
    grant("SELECT, INSERT", "event_log, operator_actions")
    grant("INSERT", "write_check")
    grant("SELECT, INSERT, UPDATE, DELETE", "outbox, journal_outbox, inbox, idempotency_keys")
    grant("SELECT, INSERT, DELETE", "signing_keys")
