-- Back to 0001. Summaries in the journal are lost; the conversations that hold them are not read by
-- an older engine.
DROP VIEW steps_readable;
CREATE TABLE steps_old (
    agent       INTEGER NOT NULL REFERENCES agents (num),
    kind        INTEGER NOT NULL CHECK (kind IN (0, 1)),    -- 0 = model call, 1 = tool call
    turn        INTEGER NOT NULL,          -- from 1
    number      INTEGER NOT NULL,          -- model: the attempt; tool: place in the answer; from 0
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
INSERT INTO steps_old SELECT * FROM steps WHERE kind IN (0, 1);
DROP TABLE steps;
ALTER TABLE steps_old RENAME TO steps;
CREATE INDEX steps_open ON steps (agent, kind, turn, number)
    WHERE state IN ('intended', 'in_doubt');
CREATE VIEW steps_readable AS
    SELECT a.id AS agent_id,
           't' || s.turn || '/' || CASE
               WHEN s.kind = 1 THEN 'c' || s.number
               WHEN s.number = 0 THEN 'm'
               ELSE 'm.' || s.number END AS key,
           s.state, s.side_effect, s.name, s.tries, hex(s.reservation) AS reservation_id,
           hex(s.entry) AS entry_id, s.note, s.created_at, s.finished_at
    FROM steps s JOIN agents a ON a.num = s.agent;
ALTER TABLE agents DROP COLUMN profile;
ALTER TABLE agents DROP COLUMN cache_write_long_tokens;
