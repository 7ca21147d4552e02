-- Tags as a JSON array of texts, each once, in the order in which they were
-- added. The protocol crate holds their limits.
ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE artifacts ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE artifacts ADD COLUMN note TEXT NOT NULL DEFAULT '';
