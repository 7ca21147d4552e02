-- Passwords for the console, as argon2 writes them.
ALTER TABLE users ADD COLUMN password TEXT;

-- `all`, or `read` for a token that changes nothing.
ALTER TABLE tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'all';
ALTER TABLE tokens ADD COLUMN last_used_at TEXT;
CREATE INDEX tokens_by_user ON tokens (user_id);

-- What the server itself must remember, such as the key that it signs with.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- Workers that a run has had. A worker is known by its token; once the run has
-- been given to another, the token of the first is good for nothing.
ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
-- What the launcher calls the worker.
ALTER TABLE runs ADD COLUMN job TEXT;
-- Until when the worker counts as alive without a sign of life; this time and
-- those below in milliseconds since 1970.
ALTER TABLE runs ADD COLUMN lease_until INTEGER;
-- Events that have come from this worker.
ALTER TABLE runs ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN started_at INTEGER;
ALTER TABLE runs ADD COLUMN ended_at INTEGER;
-- How far it is: the last step that was reported.
ALTER TABLE runs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN epochs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN step INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
-- Epochs whose end was reported.
ALTER TABLE runs ADD COLUMN epochs_done INTEGER NOT NULL DEFAULT 0;
-- The first step that this worker has reported, counted over all epochs, and
-- when: what the time left is reckoned from.
ALTER TABLE runs ADD COLUMN pace_step INTEGER;
ALTER TABLE runs ADD COLUMN pace_at INTEGER;
-- Metrics of the evaluations, as JSON by stage, so that lists can show them.
ALTER TABLE runs ADD COLUMN metrics TEXT NOT NULL DEFAULT '{}';
CREATE INDEX runs_open ON runs (id) WHERE status IN ('CREATED', 'STARTED');
CREATE INDEX runs_by_experiment ON runs (experiment_id);

-- States that runs can go on from.
CREATE TABLE checkpoints (
    run_id     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- Counted from 1.
    number     INTEGER NOT NULL,
    -- Whole epochs behind it, and steps of the next one.
    epoch      INTEGER NOT NULL,
    step       INTEGER NOT NULL,
    content    TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoints_by_content ON checkpoints (content);
-- The checkpoint that the run began with, where it is another run's.
ALTER TABLE runs ADD COLUMN first_checkpoint TEXT;
CREATE INDEX runs_by_first_checkpoint ON runs (first_checkpoint)
    WHERE first_checkpoint IS NOT NULL;
-- Its data when it was made: JSON, the SHA-256 of the content by name.
ALTER TABLE runs ADD COLUMN data TEXT NOT NULL DEFAULT '{}';
-- How many of its checkpoints at the ends of epochs are kept when it has ended.
ALTER TABLE runs ADD COLUMN keep_checkpoints INTEGER NOT NULL DEFAULT 0;

-- Logs, curves and examples are read by kind.
ALTER TABLE events ADD COLUMN kind TEXT AS (event ->> '$.kind') VIRTUAL;
CREATE INDEX events_by_kind ON events (run_id, kind, number);

-- Counted here, so that a page of a long list costs no more than one of a
-- short one.
ALTER TABLE experiments ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
UPDATE experiments SET runs =
    (SELECT count(*) FROM runs WHERE experiment_id = experiments.id);
CREATE TRIGGER run_added AFTER INSERT ON runs BEGIN
    UPDATE experiments SET runs = runs + 1 WHERE id = NEW.experiment_id;
END;
CREATE TRIGGER run_removed AFTER DELETE ON runs BEGIN
    UPDATE experiments SET runs = runs - 1 WHERE id = OLD.experiment_id;
END;

-- Runs that were open when the server was last a version without attempts:
-- their workers are gone, and what they were to be trained on is not known.
UPDATE runs SET worker_token = NULL, status = 'FAILED',
        details = 'the server was brought up to date: submit the run again'
    WHERE status IN ('CREATED', 'STARTED');
