-- Addresses that are called when something happens to a run.
CREATE TABLE webhooks (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    url        TEXT NOT NULL,
    -- The key of the signatures, which the receiver has too.
    secret     BLOB NOT NULL,
    -- JSON: a list of names of events.
    events     TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX webhooks_by_project ON webhooks (project_id);

-- Where a user gets e-mail about runs.
CREATE TABLE mail_addresses (
    user_id    TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    address    TEXT NOT NULL,
    -- JSON: a list of names of events.
    events     TEXT NOT NULL,
    -- SHA-256 of the code that was sent to the address; none once it was entered.
    code       BLOB,
    -- In milliseconds since 1970.
    code_until INTEGER
) STRICT;

-- Messages that leave the server. Each is written in the transaction of the
-- change that it tells of.
CREATE TABLE messages (
    id         INTEGER PRIMARY KEY,
    -- The receiver's name of it: the same in every attempt.
    name       TEXT NOT NULL UNIQUE,
    -- One of the two: a webhook, or a user who gets e-mail.
    webhook_id TEXT REFERENCES webhooks (id) ON DELETE CASCADE,
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,
    -- Of e-mail about a run: its receiver must still be a member.
    project_id TEXT REFERENCES projects (id) ON DELETE CASCADE,
    event      TEXT NOT NULL,
    -- JSON.
    body       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    -- When it is sent next, in milliseconds since 1970; none once it was sent or
    -- given up.
    due_at     INTEGER,
    attempts   INTEGER NOT NULL DEFAULT 0,
    tried_at   TEXT,
    sent       INTEGER NOT NULL DEFAULT 0,
    -- The outcome of the last attempt.
    outcome    TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX messages_due ON messages (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX messages_by_webhook ON messages (webhook_id, id);
CREATE INDEX messages_by_user ON messages (user_id, id);
CREATE INDEX messages_by_project ON messages (project_id);

-- Links by which anybody may read a run's page for a while.
CREATE TABLE shares (
    id            TEXT PRIMARY KEY,
    -- SHA-256 of the key in the address.
    hash          BLOB NOT NULL UNIQUE,
    run_id        INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    created_by    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- Whether the run's artifact may be downloaded too.
    with_artifact INTEGER NOT NULL,
    created_at    TEXT NOT NULL,
    expires_at    TEXT NOT NULL,
    opened        INTEGER NOT NULL DEFAULT 0,
    opened_at     TEXT
) STRICT;
CREATE INDEX shares_by_run ON shares (run_id);
CREATE INDEX shares_by_user ON shares (created_by);

-- Accounts of a sign-in provider, and the users that they belong to.
CREATE TABLE identities (
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_user ON identities (user_id);
