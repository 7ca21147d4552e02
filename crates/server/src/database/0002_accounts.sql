ALTER TABLE tokens ADD COLUMN kind TEXT NOT NULL DEFAULT 'personal';
-- In UTC; none where the token never ends.
ALTER TABLE tokens ADD COLUMN expires_at TEXT;

ALTER TABLE experiments ADD COLUMN idempotency_key TEXT;
