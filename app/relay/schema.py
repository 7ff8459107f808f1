"""The SQL of the outbox in PostgreSQL: two tables, and triggers that keep the order of commits.

The order of ids is not the order of commits: a sequence counts when a row is inserted, and a transaction may commit
long after a later one. The trigger therefore takes a lock for the partition of the row before it takes the id. The lock
is held until the end of the transaction, so transactions that write to the same partition do so one after the other,
and the ids within a partition are in the order of commits. ``docs/adr/0011-the-outbox-locks-partitions.md`` compares
this with other ways.

No blank line and no percent sign is within a statement of ``CREATE``, so that migrations can execute the statements one
by one with any driver.
"""

from __future__ import annotations

from typing import Final

#: The number of partitions. A change needs a new trigger and an empty table.
PARTITIONS: Final = 256
#: The name of the table and of the channel on which inserts are notified.
TABLE: Final = "roomcast_outbox"
CHANNEL: Final = TABLE
FAILED_TABLE: Final = "roomcast_outbox_failed"
#: Advisory locks have two numbers: the oid of the table, and one of these. Writers lock the number of the partition.
#: A relay locks ``ACTIVE`` and the number of each partition that it publishes, and a number from ``MEMBER`` for itself.
ACTIVE: Final = 1024
MEMBER: Final = 2048
MAX_RELAYS: Final = 256

_EVENT: Final = """\
    key text NOT NULL DEFAULT gen_random_uuid()::text CHECK (key COLLATE "C" ~ '^[ -~]{1,128}$'),
    type text NOT NULL,
    room text NOT NULL,
    data jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object'),
    sender text,
    partition_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),"""

CREATE: Final = f"""\
-- The events that `roomcast relay` publishes. The application inserts type, room, data, and optionally sender, key and
-- partition_key, which is the room by default. The trigger sets the partition and the id.
CREATE TABLE {TABLE} (
    partition smallint NOT NULL,
    id bigint NOT NULL,
{_EVENT}
    PRIMARY KEY (partition, id)
);

CREATE SEQUENCE {TABLE}_id_seq OWNED BY {TABLE}.id;

-- The events that roomcast has refused, with the reason.
CREATE TABLE {FAILED_TABLE} (
    id bigint NOT NULL PRIMARY KEY,
{_EVENT}
    code text NOT NULL,
    error text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The lock lasts until the end of the transaction. So the ids of a partition are in the order of commits.
CREATE FUNCTION {TABLE}_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.partition_key = coalesce(NEW.partition_key, NEW.room);
    NEW.partition = hashtextextended(NEW.partition_key, 0) & {PARTITIONS - 1};
    PERFORM pg_advisory_xact_lock(TG_RELID::int, NEW.partition);
    NEW.id = nextval((quote_ident(TG_TABLE_SCHEMA) || '.{TABLE}_id_seq')::regclass);
    RETURN NEW;
END $$;

CREATE TRIGGER {TABLE}_number BEFORE INSERT ON {TABLE}
    FOR EACH ROW EXECUTE FUNCTION {TABLE}_number();

-- Wakes the relay at once. Without this trigger, rows wait for the next poll, at most a second.
CREATE FUNCTION {TABLE}_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{CHANNEL}', '');
    RETURN NULL;
END $$;

CREATE TRIGGER {TABLE}_notify AFTER INSERT ON {TABLE}
    FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_notify();
"""

#: Reads the next rows of the given partitions, each after the given id: at most ``limit``, and about ``size`` bytes.
#: The order of ids in a partition is that of commits, so no row can appear before one that was read. Reading after an
#: id skips the index entries of deleted rows, which PostgreSQL keeps while a long transaction runs.
FETCH: Final = """\
SELECT partition, id, key, type, room, data, sender FROM (
    SELECT o.*, sum(octet_length(o.data)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(o.data) AS before
    FROM (
        SELECT o.* FROM unnest(%(partitions)s::smallint[], %(after)s::bigint[]) WITH ORDINALITY AS p (number, after, n)
        CROSS JOIN LATERAL (
            SELECT partition, id, key, type, room, data::text AS data, sender FROM roomcast_outbox
            WHERE partition = p.number AND id > p.after ORDER BY id LIMIT %(limit)s
        ) AS o LIMIT %(limit)s
    ) AS o
) AS o WHERE before < %(size)s"""

DELETE: Final = """\
DELETE FROM roomcast_outbox AS o USING unnest(%(partitions)s::smallint[], %(ids)s::bigint[]) AS done (partition, id)
WHERE o.partition = done.partition AND o.id = done.id"""

SET_ASIDE: Final = """\
WITH refused AS (
    SELECT * FROM unnest(%(partitions)s::smallint[], %(ids)s::bigint[], %(codes)s::text[], %(errors)s::text[])
    AS r (partition, id, code, error)
), moved AS (
    DELETE FROM roomcast_outbox AS o USING refused AS r WHERE o.partition = r.partition AND o.id = r.id
    RETURNING o.id, o.key, o.type, o.room, o.data, o.sender, o.partition_key, o.created_at, r.code, r.error
)
INSERT INTO roomcast_outbox_failed (id, key, type, room, data, sender, partition_key, created_at, code, error)
SELECT * FROM moved"""

#: Puts the refused events at the end of the outbox again.
RETRY_FAILED: Final = """\
WITH moved AS (DELETE FROM roomcast_outbox_failed RETURNING *)
INSERT INTO roomcast_outbox (key, type, room, data, sender, partition_key)
SELECT key, type, room, data, sender, partition_key FROM moved ORDER BY id"""

#: The number of rows in the given partitions, and the age of the oldest one in seconds.
LAG: Final = """\
SELECT
    (SELECT count(*) FROM roomcast_outbox WHERE partition = ANY (%(partitions)s::smallint[])),
    (
        SELECT extract(epoch FROM clock_timestamp() - min(o.created_at))
        FROM unnest(%(partitions)s::smallint[]) AS p (number)
        CROSS JOIN LATERAL (SELECT created_at FROM roomcast_outbox WHERE partition = p.number ORDER BY id LIMIT 1) AS o
    )"""
