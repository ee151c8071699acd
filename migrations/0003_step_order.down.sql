-- Back to 0002: the same rows, in the order of agents, with every foreign key. Nothing is lost.

DROP VIEW events_readable;
DROP VIEW steps_readable;
DROP VIEW entries_readable;

-- Steps refer to entries, so they wait elsewhere while entries are made anew.
CREATE TABLE steps_kept AS SELECT * FROM steps;
DROP TABLE steps;

CREATE TABLE entries_new (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    agent       INTEGER NOT NULL REFERENCES agents (num),   -- who added it
    parent_id   BLOB    REFERENCES entries_new (id),            -- NULL for the first
    step_kind   INTEGER,                   -- as in steps; NULL = no step's outcome
    step_turn   INTEGER,
    step_number INTEGER,
    at          INTEGER NOT NULL,
    body        TEXT,                      -- JSON object: EntryBody; NULL = in blobs
    blob        INTEGER REFERENCES blobs (num),
    CHECK ((body IS NULL) <> (blob IS NULL))
) STRICT, WITHOUT ROWID;
-- Both are for the time of the move. To drop a table is to delete each of its rows, and to look for
-- those that refer to it; to add one that others wait for is to look for them.
CREATE INDEX entries_by_parent ON entries (parent_id);
CREATE INDEX entries_new_by_parent ON entries_new (parent_id);
INSERT INTO entries_new SELECT * FROM entries ORDER BY id;
DROP TABLE entries;
DROP INDEX entries_new_by_parent;
ALTER TABLE entries_new RENAME TO entries;

CREATE TABLE steps (
    agent       INTEGER NOT NULL REFERENCES agents (num),
    -- 0 = model call, 1 = tool call, 2 = model call that sums the conversation up
    kind        INTEGER NOT NULL CHECK (kind IN (0, 1, 2)),
    turn        INTEGER NOT NULL,          -- from 1
    number      INTEGER NOT NULL,          -- model, summary: the attempt; tool: place in the answer; from 0
    state       TEXT    NOT NULL CHECK (
        state = 'intended' OR state = 'done' OR state = 'failed' OR state = 'in_doubt'
        OR state = 'resolved'),
    side_effect TEXT    NOT NULL CHECK (
        side_effect = 'pure' OR side_effect = 'idempotent' OR side_effect = 'reconcilable'
        OR side_effect = 'once'),
    name        TEXT    NOT NULL,          -- the tool, or the model's id
    tries       INTEGER NOT NULL,
    call_id     TEXT,                      -- a tool call's id in the model's answer
    reservation BLOB    REFERENCES reservations (id),
    entry       BLOB    REFERENCES entries (id),
    note        TEXT,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (agent, kind, turn, number)
) STRICT, WITHOUT ROWID;
INSERT INTO steps SELECT * FROM steps_kept ORDER BY agent, kind, turn, number;
DROP TABLE steps_kept;
-- What a restart looks at. A query uses it by repeating the condition word for word.
CREATE INDEX steps_open ON steps (agent, kind, turn, number)
    WHERE state IN ('intended', 'in_doubt');

CREATE TABLE events_new (
    seq         INTEGER PRIMARY KEY,       -- 1, 2, 3, …
    id          BLOB    NOT NULL,
    at          INTEGER NOT NULL,
    swarm       INTEGER REFERENCES swarms (num),
    source      INTEGER NOT NULL,          -- > 0: agents.num; < 0: -swarms.num; 0: the system
    type        INTEGER NOT NULL REFERENCES event_types (num),
    -- JSON. A leading `@` stands for `{"agentId":"<id of the source>"`, with which most begin.
    data        TEXT    NOT NULL,
    -- First 16 bytes of BLAKE3(hash of seq - 1 (zeros for the first) || seq || id || at || swarm ||
    -- source || type || data), as chain.rs lays them out. Shows damage by accident; someone who may
    -- write the file can compute the chain anew.
    hash        BLOB    NOT NULL
) STRICT;
INSERT INTO events_new SELECT * FROM events ORDER BY seq;
DROP TABLE events;
ALTER TABLE events_new RENAME TO events;
-- Every index ends in seq by itself, as it is the row id.
CREATE INDEX events_by_swarm ON events (swarm) WHERE swarm IS NOT NULL;
CREATE INDEX events_by_source ON events (source);
CREATE INDEX events_by_type ON events (type);

CREATE VIEW events_readable AS
    SELECT e.seq, hex(e.id) AS id, strftime('%Y-%m-%dT%H:%M:%fZ', e.at / 1000.0, 'unixepoch') AS at,
           s.id AS swarm_id,
           coalesce(a.id, t.id, 'system') AS source, y.name AS type,
           iif(substr(e.data, 1, 1) = '@',
               '{"agentId":"' || a.id || '"' || substr(e.data, 2), e.data) AS data
    FROM events e
    JOIN event_types y ON y.num = e.type
    LEFT JOIN swarms s ON s.num = e.swarm
    LEFT JOIN agents a ON a.num = e.source
    LEFT JOIN swarms t ON t.num = -e.source;

CREATE VIEW steps_readable AS
    SELECT a.id AS agent_id,
           't' || s.turn || '/' || CASE
               WHEN s.kind = 1 THEN 'c' || s.number
               ELSE iif(s.kind = 2, 's', 'm') || iif(s.number = 0, '', '.' || s.number) END AS key,
           s.state, s.side_effect, s.name, s.tries, hex(s.reservation) AS reservation_id,
           hex(s.entry) AS entry_id, s.note, s.created_at, s.finished_at
    FROM steps s JOIN agents a ON a.num = s.agent;

CREATE VIEW entries_readable AS
    SELECT hex(e.id) AS id, a.id AS agent_id, hex(e.parent_id) AS parent_id, e.at,
           coalesce(e.body, iif(b.codec = 0, CAST(b.data AS TEXT), '(compressed)')) AS body
    FROM entries e JOIN agents a ON a.num = e.agent LEFT JOIN blobs b ON b.num = e.blob;
