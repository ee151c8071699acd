-- Back to 0001. Summaries in the journal are lost; a conversation that holds one, or a branch, is not
-- read by an older engine. What they cost stays in the books: a call under way is charged at its worst
-- case, as after a crash, on every budget from its own up to the project's.
CREATE TEMP TABLE summary_holds AS
    WITH RECURSIVE path (budget, usd, tokens) AS (
        SELECT budget, held_usd, held_tokens FROM reservations
        WHERE step_kind = 2 AND state = 'held'
        UNION ALL
        SELECT above.num, path.usd, path.tokens
        FROM path JOIN budgets own ON own.num = path.budget JOIN budgets above ON above.id = own.parent_id
    )
    SELECT budget, sum(usd) AS usd, sum(tokens) AS tokens FROM path GROUP BY budget;
UPDATE budgets SET
    reserved = reserved - (SELECT iif(budgets.currency = 'tokens', h.tokens, h.usd)
                           FROM summary_holds h WHERE h.budget = budgets.num),
    uncertain = uncertain + (SELECT iif(budgets.currency = 'tokens', h.tokens, h.usd)
                             FROM summary_holds h WHERE h.budget = budgets.num),
    version = version + 1
    WHERE num IN (SELECT budget FROM summary_holds);
DROP TABLE summary_holds;
UPDATE reservations SET state = 'uncertain' WHERE step_kind = 2 AND state = 'held';
-- The older engine knows no such steps: what they have left is that of model calls.
UPDATE reservations SET step_kind = 0 WHERE step_kind = 2;
UPDATE entries SET step_kind = NULL, step_turn = NULL, step_number = NULL WHERE step_kind = 2;
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
