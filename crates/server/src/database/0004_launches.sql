-- A launch has a number that is never given out twice. `attempts` counts the
-- faults of the run itself, and is set back when the run makes progress.
ALTER TABLE runs ADD COLUMN launches INTEGER NOT NULL DEFAULT 0;
UPDATE runs SET launches = attempts;
-- Milliseconds that workers have spent on the run.
ALTER TABLE runs ADD COLUMN worked INTEGER NOT NULL DEFAULT 0;
-- Whether the server began to stop while this worker had the run.
ALTER TABLE runs ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;
-- Leases are kept in memory, on a clock that nobody can set.
ALTER TABLE runs DROP COLUMN lease_until;

-- Users take turns: the one whose last turn is longest ago comes next.
ALTER TABLE users ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
