-- Summaries as steps of their own kind, profiles of agents, long cache writes.

ALTER TABLE agents ADD COLUMN cache_write_long_tokens INTEGER NOT NULL DEFAULT 0;  -- part of cache_write_tokens
ALTER TABLE agents ADD COLUMN profile TEXT;    -- a name in its swarm's config.profiles

-- A CHECK cannot be changed in place, so the table is made anew.
DROP VIEW steps_readable;
CREATE TABLE steps_new (
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
INSERT INTO steps_new SELECT * FROM steps;
DROP TABLE steps;
ALTER TABLE steps_new RENAME TO steps;
-- What a restart looks at. A query uses it by repeating the condition word for word.
CREATE INDEX steps_open ON steps (agent, kind, turn, number)
    WHERE state IN ('intended', 'in_doubt');
CREATE VIEW steps_readable AS
    SELECT a.id AS agent_id,
           't' || s.turn || '/' || CASE
               WHEN s.kind = 1 THEN 'c' || s.number
               ELSE iif(s.kind = 2, 's', 'm') || iif(s.number = 0, '', '.' || s.number) END AS key,
           s.state, s.side_effect, s.name, s.tries, hex(s.reservation) AS reservation_id,
           hex(s.entry) AS entry_id, s.note, s.created_at, s.finished_at
    FROM steps s JOIN agents a ON a.num = s.agent;
