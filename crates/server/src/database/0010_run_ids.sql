-- The largest id that a run has had. SQLite gives the id of the newest run to the next one
-- if that run is deleted, and the engine may still know a job of its name.
CREATE TABLE last_run (id INTEGER NOT NULL) STRICT;
INSERT INTO last_run SELECT coalesce(max(id), 0) FROM runs;
CREATE TRIGGER note_run AFTER INSERT ON runs BEGIN
    UPDATE last_run SET id = max(id, NEW.id);
END;
