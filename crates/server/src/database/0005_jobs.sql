-- SHA-256 of the token that a worker's first call exchanges for one that the
-- worker made itself. Until then a run that has a job has no worker.
ALTER TABLE runs ADD COLUMN start_token BLOB;
CREATE UNIQUE INDEX runs_by_start_token ON runs (start_token)
    WHERE start_token IS NOT NULL;

-- Cores and graphics processors that the client asked for; none where it did
-- not say.
ALTER TABLE runs ADD COLUMN cpus INTEGER;
ALTER TABLE runs ADD COLUMN gpus INTEGER;

-- Jobs now have the server's names. Workers of earlier versions can't be found
-- by them and are replaced, which costs no attempt.
UPDATE runs SET worker_token = NULL, job = NULL, attempts = max(attempts - 1, 0)
    WHERE worker_token IS NOT NULL AND status IN ('CREATED', 'STARTED');
