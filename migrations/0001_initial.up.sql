-- The first schema of a Dash store.
--
-- Conventions
--   * `*_at` and `at` are milliseconds since 1970-01-01T00:00:00Z.
--   * Money is in nano-dollars (1 USD = 1,000,000,000); a budget in tokens counts tokens.
--   * A ULID is 26 characters of TEXT in tables with few rows. In the tables that grow with every
--     turn (`entries`, `steps`, `events`, `reservations`) it is a BLOB of its 16 bytes, most
--     significant first, which sorts the same; `hex(id)` shows it.
--   * `num` columns are this file's own short numbers for agents, swarms, budgets, blobs and event
--     types. They never leave the store. They keep a turn below 2 KB of file.
--   * `version` counts the writes of a row. A writer names the version it read; another one in the
--     row is a conflict.
--   * Rows are never deleted.
--   * Checks of more than two values are written with OR. SQLite makes a temporary table of the
--     values of such an IN each time it writes a row, which doubled the CPU of a step.
--   * `events_readable`, `steps_readable` and `entries_readable` are for people with a shell.
--
-- The order of the tables is the order in which a changeset writes them: a row refers only to rows
-- that are there already, so every foreign key is checked at once.

-- Applied migrations. Checked at every start.
CREATE TABLE _migrations (
    id          INTEGER PRIMARY KEY,
    version     INTEGER NOT NULL UNIQUE,   -- the number in the file's name
    name        TEXT    NOT NULL,          -- the rest of the file's name
    applied_at  INTEGER NOT NULL,
    checksum    TEXT    NOT NULL           -- BLAKE3 of the up file, 64 hex digits
) STRICT;

-- The outermost namespaces.
CREATE TABLE projects (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    budget_id   TEXT    NOT NULL,          -- budgets.id; written after this row, so not a key
    created_at  INTEGER NOT NULL
) STRICT;

-- The tree of caps: project > swarm > agent > task.
CREATE TABLE budgets (
    num         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    scope       TEXT    NOT NULL CHECK (
        scope = 'project' OR scope = 'swarm' OR scope = 'agent' OR scope = 'task'),
    entity_id   TEXT    NOT NULL,          -- id of the project, swarm, agent or task
    parent_id   TEXT    REFERENCES budgets (id),
    currency    TEXT    NOT NULL CHECK (currency IN ('USD', 'tokens')),
    allocated   INTEGER,                   -- the cap; NULL = only counted
    spent       INTEGER NOT NULL,          -- settled with actual usage
    uncertain   INTEGER NOT NULL,          -- charged at worst case, outcome lost
    reserved    INTEGER NOT NULL,          -- held for calls under way
    overrun     INTEGER NOT NULL,          -- what servers reported above the worst case
    warning     INTEGER NOT NULL,          -- levels in per cent of the cap
    critical    INTEGER NOT NULL,
    hard_stop   INTEGER NOT NULL,
    warning_action   TEXT NOT NULL CHECK (
        warning_action = 'none' OR warning_action = 'notify' OR warning_action = 'pause'
        OR warning_action = 'kill'),
    critical_action  TEXT NOT NULL CHECK (
        critical_action = 'none' OR critical_action = 'notify' OR critical_action = 'pause'
        OR critical_action = 'kill'),
    hard_stop_action TEXT NOT NULL CHECK (
        hard_stop_action = 'none' OR hard_stop_action = 'notify'
        OR hard_stop_action = 'pause' OR hard_stop_action = 'kill'),
    fired       INTEGER NOT NULL,          -- highest level that fired; 0 = none
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    -- The database itself refuses to overspend.
    CONSTRAINT budget_is_kept CHECK (
        spent >= 0 AND uncertain >= 0 AND reserved >= 0 AND overrun >= 0
        AND (allocated IS NULL OR spent + uncertain + reserved <= allocated + overrun)
    )
) STRICT;
CREATE INDEX budgets_by_entity ON budgets (scope, entity_id, id);
CREATE INDEX budgets_by_parent ON budgets (parent_id, id);

CREATE TABLE swarms (
    num         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    project_id  TEXT    NOT NULL REFERENCES projects (id),
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (
        status = 'creating' OR status = 'active' OR status = 'paused'
        OR status = 'completed' OR status = 'failed' OR status = 'destroyed'),
    task        TEXT    NOT NULL,          -- the goal, in words
    strategy    TEXT    NOT NULL CHECK (
        strategy = 'parallel' OR strategy = 'map-reduce' OR strategy = 'pipeline'
        OR strategy = 'tree' OR strategy = 'dag'),
    config      TEXT    NOT NULL,          -- JSON object: SwarmConfig
    budget_id   TEXT    NOT NULL REFERENCES budgets (id),
    agent_count INTEGER NOT NULL,          -- agents ever created
    target_agent_count INTEGER NOT NULL,   -- agents that may work at the same time
    result      TEXT,
    error       TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    completed_at INTEGER,
    version     INTEGER NOT NULL
) STRICT;
CREATE INDEX swarms_by_project ON swarms (project_id, id);
-- What a restart looks at. A query uses it by repeating the condition word for word.
CREATE INDEX swarms_active ON swarms (id) WHERE status IN ('creating', 'active', 'paused');

-- The nodes of the swarms' plans.
CREATE TABLE tasks (
    id          TEXT    PRIMARY KEY,
    swarm_id    TEXT    NOT NULL REFERENCES swarms (id),
    key         TEXT    NOT NULL,          -- place in the plan, e.g. map/3
    role        TEXT    NOT NULL CHECK (
        role = 'work' OR role = 'plan' OR role = 'map' OR role = 'reduce' OR role = 'stage'
        OR role = 'coordinate' OR role = 'delegated'),
    prompt      TEXT    NOT NULL,
    depends_on  TEXT    NOT NULL,          -- JSON array of task ids
    status      TEXT    NOT NULL CHECK (
        status = 'pending' OR status = 'ready' OR status = 'running' OR status = 'blocked'
        OR status = 'completed' OR status = 'failed' OR status = 'cancelled'),
    agent_id    TEXT,                      -- agents.id; agents are written later, so not a key
    output      TEXT,
    error       TEXT,
    ordinal     INTEGER NOT NULL,          -- order of creation within the swarm
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    completed_at INTEGER,
    version     INTEGER NOT NULL,
    UNIQUE (swarm_id, key)
) STRICT;
CREATE INDEX tasks_by_swarm ON tasks (swarm_id, id);

CREATE TABLE agents (
    num         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (
        status = 'idle' OR status = 'spawning' OR status = 'running' OR status = 'paused'
        OR status = 'completed' OR status = 'failed' OR status = 'killed'),
    swarm_id    TEXT    NOT NULL REFERENCES swarms (id),
    parent_id   TEXT    REFERENCES agents (id),
    depth       INTEGER NOT NULL,          -- 0 without a parent
    task_id     TEXT    REFERENCES tasks (id),
    model       TEXT    NOT NULL,
    head        BLOB    CHECK (length(head) = 16),  -- entries.id; written later, so not a key
    turns       INTEGER NOT NULL,          -- model calls finished
    tool_calls  INTEGER NOT NULL,          -- tool calls finished
    progress_current INTEGER NOT NULL,
    progress_total   INTEGER NOT NULL,     -- 0 = unknown
    input_tokens       INTEGER NOT NULL,   -- the four counts do not overlap
    output_tokens      INTEGER NOT NULL,
    cache_read_tokens  INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,   -- part of output_tokens
    cost_nanos  INTEGER NOT NULL,
    pause_reason TEXT,
    result      TEXT,
    error       TEXT,
    retry_count INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    attempt_turns INTEGER NOT NULL,        -- turns when the attempt began
    retry_at    INTEGER,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    started_at  INTEGER,
    completed_at INTEGER,
    version     INTEGER NOT NULL
) STRICT;
CREATE INDEX agents_by_swarm ON agents (swarm_id, id);
CREATE INDEX agents_by_parent ON agents (parent_id, id) WHERE parent_id IS NOT NULL;
-- What a restart looks at. A query uses it by repeating the condition word for word.
CREATE INDEX agents_active ON agents (id) WHERE status IN ('idle', 'spawning', 'running', 'paused');

-- What model calls may cost and did cost. Amounts: nano-dollars and tokens.
CREATE TABLE reservations (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    budget      INTEGER NOT NULL REFERENCES budgets (num),  -- the lowest of the path
    agent       INTEGER NOT NULL REFERENCES agents (num),
    step_kind   INTEGER NOT NULL,          -- as in steps
    step_turn   INTEGER NOT NULL,
    step_number INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (
        state = 'held' OR state = 'settled' OR state = 'released' OR state = 'uncertain'),
    held_usd    INTEGER NOT NULL,
    held_tokens INTEGER NOT NULL,
    actual_usd    INTEGER,                 -- NULL until settled
    actual_tokens INTEGER,
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_by_agent ON reservations (agent, id);
CREATE INDEX reservations_open ON reservations (id) WHERE state IN ('held', 'uncertain');

-- Contents of large entries, each stored once.
CREATE TABLE blobs (
    num         INTEGER PRIMARY KEY,
    -- First 16 bytes of the content's BLAKE3. Finds a content again and tells damage on reading.
    -- 128 bits are no proof of equality against someone who makes collisions (2^64 work), so a
    -- writer that meets a known hash compares the contents.
    hash        BLOB    NOT NULL UNIQUE CHECK (length(hash) = 16),
    size        INTEGER NOT NULL,          -- bytes of the content
    codec       INTEGER NOT NULL CHECK (codec IN (0, 1)),   -- 0 = as it is, 1 = one LZ4 block
    data        BLOB    NOT NULL
) STRICT;

-- The nodes of the conversations. Append-only.
CREATE TABLE entries (
    id          BLOB    PRIMARY KEY CHECK (length(id) = 16),
    agent       INTEGER NOT NULL REFERENCES agents (num),   -- who added it
    parent_id   BLOB    REFERENCES entries (id),            -- NULL for the first
    step_kind   INTEGER,                   -- as in steps; NULL = no step's outcome
    step_turn   INTEGER,
    step_number INTEGER,
    at          INTEGER NOT NULL,
    body        TEXT,                      -- JSON object: EntryBody; NULL = in blobs
    blob        INTEGER REFERENCES blobs (num),
    CHECK ((body IS NULL) <> (blob IS NULL))
) STRICT, WITHOUT ROWID;

-- What agents did, are doing or are about to do.
CREATE TABLE steps (
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
-- What a restart looks at. A query uses it by repeating the condition word for word.
CREATE INDEX steps_open ON steps (agent, kind, turn, number)
    WHERE state IN ('intended', 'in_doubt');

-- Messages on their way to agents.
CREATE TABLE tickets (
    id          TEXT    PRIMARY KEY,
    agent_id    TEXT    NOT NULL REFERENCES agents (id),
    queue       TEXT    NOT NULL CHECK (queue IN ('steer', 'follow_up')),
    text        TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (
        state = 'queued' OR state = 'delivered' OR state = 'dropped'),
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX tickets_by_agent ON tickets (agent_id, id);
CREATE INDEX tickets_queued ON tickets (id) WHERE state IN ('queued');

-- The wire names of the types of event in this store.
CREATE TABLE event_types (
    num         INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE    -- e.g. agent.started
) STRICT;

-- What happened, numbered without gaps.
CREATE TABLE events (
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
               WHEN s.number = 0 THEN 'm'
               ELSE 'm.' || s.number END AS key,
           s.state, s.side_effect, s.name, s.tries, hex(s.reservation) AS reservation_id,
           hex(s.entry) AS entry_id, s.note, s.created_at, s.finished_at
    FROM steps s JOIN agents a ON a.num = s.agent;

CREATE VIEW entries_readable AS
    SELECT hex(e.id) AS id, a.id AS agent_id, hex(e.parent_id) AS parent_id, e.at,
           coalesce(e.body, iif(b.codec = 0, CAST(b.data AS TEXT), '(compressed)')) AS body
    FROM entries e JOIN agents a ON a.num = e.agent LEFT JOIN blobs b ON b.num = e.blob;
