-- A project is a namespace of experiments, data and models, with members. Each
-- user has a personal project, which has the user's id and name.
CREATE TABLE projects (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    -- Whose personal project it is; none for a shared one.
    user_id    TEXT UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    -- Who created a shared one; none if the user was deleted.
    creator_id TEXT REFERENCES users (id) ON DELETE SET NULL,
    -- Bytes that it may store, if they differ from the server's setting.
    max_stored INTEGER,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE members (
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'member', 'owner')),
    PRIMARY KEY (project_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_id);

-- Admins manage users, all projects and the server.
ALTER TABLE users ADD COLUMN admin INTEGER NOT NULL DEFAULT 0;
-- The tokens and the password of a disabled user are refused.
ALTER TABLE users ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
-- Open runs that the user may have, if they differ from the server's setting.
ALTER TABLE users ADD COLUMN max_open_runs INTEGER;
UPDATE users SET admin = 1
    WHERE id = (SELECT id FROM users ORDER BY created_at, rowid LIMIT 1);

INSERT INTO projects (id, name, user_id, created_at)
    SELECT id, name, id, created_at FROM users;
INSERT INTO members (project_id, user_id, role) SELECT id, id, 'owner' FROM users;
-- The first user is an admin: there must be one.
CREATE TRIGGER user_added AFTER INSERT ON users BEGIN
    INSERT INTO projects (id, name, user_id, created_at)
        VALUES (NEW.id, NEW.name, NEW.id, NEW.created_at);
    INSERT INTO members (project_id, user_id, role) VALUES (NEW.id, NEW.id, 'owner');
    UPDATE users SET admin = 1 WHERE id = NEW.id AND (SELECT count(*) FROM users) = 1;
END;
CREATE TRIGGER user_renamed AFTER UPDATE OF name ON users BEGIN
    UPDATE projects SET name = NEW.name WHERE user_id = NEW.id;
END;

-- The project that a console session shows; none for the personal one.
ALTER TABLE tokens ADD COLUMN project_id TEXT REFERENCES projects (id) ON DELETE SET NULL;

-- Who started the run; none if the user was deleted.
ALTER TABLE runs ADD COLUMN created_by TEXT REFERENCES users (id) ON DELETE SET NULL;
UPDATE runs SET created_by = (SELECT user_id FROM experiments WHERE id = experiment_id);

-- Foreign keys are off during a migration, so that dropping a table deletes
-- nothing elsewhere.
DROP TRIGGER run_added;
DROP TRIGGER run_removed;
CREATE TABLE new_experiments (
    id              INTEGER PRIMARY KEY,
    project_id      TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    description     TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    idempotency_key TEXT,
    -- Counted here, so that a page of a long list costs no more than one of a
    -- short one.
    runs            INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, name)
) STRICT;
INSERT INTO new_experiments (id, project_id, name, description, created_at, idempotency_key, runs)
    SELECT id, user_id, name, description, created_at, idempotency_key, runs FROM experiments;
DROP TABLE experiments;
ALTER TABLE new_experiments RENAME TO experiments;
CREATE TRIGGER run_added AFTER INSERT ON runs BEGIN
    UPDATE experiments SET runs = runs + 1 WHERE id = NEW.experiment_id;
END;
CREATE TRIGGER run_removed AFTER DELETE ON runs BEGIN
    UPDATE experiments SET runs = runs - 1 WHERE id = OLD.experiment_id;
END;

CREATE TABLE new_artifacts (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    -- Who pushed it or started its run; none if the user was deleted.
    created_by TEXT REFERENCES users (id) ON DELETE SET NULL,
    name       TEXT,
    type       TEXT NOT NULL,
    public     INTEGER NOT NULL,
    meta_data  TEXT NOT NULL,
    -- SHA-256 of the content, as hex digits: its name in the store.
    content    TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    tags       TEXT NOT NULL DEFAULT '[]',
    note       TEXT NOT NULL DEFAULT '',
    UNIQUE (project_id, name)
) STRICT;
INSERT INTO new_artifacts (id, project_id, created_by, name, type, public, meta_data, content,
        size, created_at, updated_at, tags, note)
    SELECT id, user_id, user_id, name, type, public, meta_data, content, size, created_at,
        updated_at, tags, note FROM artifacts ORDER BY rowid;
DROP TABLE artifacts;
ALTER TABLE new_artifacts RENAME TO artifacts;
CREATE INDEX artifacts_by_content ON artifacts (content);

-- Who did what. Names are kept as they were, so that entries outlive users,
-- projects and objects.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      TEXT NOT NULL,
    -- None for the command line of the server.
    person  TEXT,
    project TEXT,
    action  TEXT NOT NULL,
    object  TEXT NOT NULL,
    address TEXT
) STRICT;
CREATE INDEX audit_by_time ON audit (at);
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'entries of the audit log are never changed');
END;
-- Pruning by age is all that removes entries.
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
    WHEN OLD.at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 day') BEGIN
    SELECT RAISE(ABORT, 'entries of the audit log are kept for at least a day');
END;
