-- Webhooks: addresses that the server calls when something happens to a run.
CREATE TABLE webhooks (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    url        TEXT NOT NULL,
    -- Key of the signatures. The receiver has it too.
    secret     BLOB NOT NULL,
    -- JSON array of event names.
    events     TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX webhooks_by_project ON webhooks (project_id);

-- E-mail addresses of users, for messages about runs.
CREATE TABLE mail_addresses (
    user_id    TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    address    TEXT NOT NULL,
    -- JSON array of event names.
    events     TEXT NOT NULL,
    -- SHA-256 of the code that was sent to the address; NULL once it is confirmed.
    code       BLOB,
    -- Expiry of the code, in milliseconds since 1970.
    code_until INTEGER
) STRICT;

-- Messages that leave the server. A message is inserted in the transaction of the
-- change that it describes.
CREATE TABLE messages (
    id         INTEGER PRIMARY KEY,
    -- Id of the message for its receiver, the same in every attempt.
    name       TEXT NOT NULL UNIQUE,
    -- Exactly one of the two is set: a webhook, or a user for e-mail.
    webhook_id TEXT REFERENCES webhooks (id) ON DELETE CASCADE,
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,
    -- Set for e-mail about a run, whose receiver must still be a member.
    project_id TEXT REFERENCES projects (id) ON DELETE CASCADE,
    event      TEXT NOT NULL,
    -- JSON object.
    body       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    -- Time of the next attempt, in milliseconds since 1970; NULL once the message
    -- is sent or given up.
    due_at     INTEGER,
    attempts   INTEGER NOT NULL DEFAULT 0,
    tried_at   TEXT,
    sent       INTEGER NOT NULL DEFAULT 0,
    -- Outcome of the last attempt, in words.
    outcome    TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX messages_due ON messages (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX messages_by_webhook ON messages (webhook_id, id);
CREATE INDEX messages_by_user ON messages (user_id, id);
CREATE INDEX messages_by_project ON messages (project_id);

-- Links with which anybody can read a run's page until they expire.
CREATE TABLE shares (
    id            TEXT PRIMARY KEY,
    -- SHA-256 of the secret key in the address.
    hash          BLOB NOT NULL UNIQUE,
    run_id        INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    created_by    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- Whether the link also permits the download of the run's artifact.
    with_artifact INTEGER NOT NULL,
    created_at    TEXT NOT NULL,
    expires_at    TEXT NOT NULL,
    opened        INTEGER NOT NULL DEFAULT 0,
    opened_at     TEXT
) STRICT;
CREATE INDEX shares_by_run ON shares (run_id);
CREATE INDEX shares_by_user ON shares (created_by);

-- Accounts at the sign-in provider, and the users they are linked to.
CREATE TABLE identities (
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_user ON identities (user_id);
