CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE experiments (
    id          INTEGER PRIMARY KEY,
    user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    UNIQUE (user_id, name)
) STRICT;

CREATE TABLE runs (
    id              INTEGER PRIMARY KEY,
    experiment_id   INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    description     TEXT NOT NULL,
    -- As the client sent it.
    config          TEXT NOT NULL,
    device          TEXT NOT NULL,
    task            TEXT NOT NULL,
    status          TEXT NOT NULL,
    details         TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    -- Given out when the run is created, filled when it ends well.
    artifact_id     TEXT NOT NULL UNIQUE,
    idempotency_key TEXT,
    -- Set when the run is launched.
    worker_token    BLOB UNIQUE,
    UNIQUE (experiment_id, name)
) STRICT;

CREATE TABLE events (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- Counted from 0 without gaps.
    number INTEGER NOT NULL,
    -- Milliseconds since 1970.
    at     INTEGER NOT NULL,
    event  TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name       TEXT,
    type       TEXT NOT NULL,
    public     INTEGER NOT NULL,
    meta_data  TEXT NOT NULL,
    -- SHA-256 of the content, as hex digits: its name in the store.
    content    TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (user_id, name)
) STRICT;

CREATE INDEX artifacts_by_content ON artifacts (content);
