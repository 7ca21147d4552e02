-- The runs of deleted users take turns as one user of their project.
ALTER TABLE projects ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;

-- Who created the experiment; none if the user was deleted.
ALTER TABLE experiments ADD COLUMN creator TEXT REFERENCES users (id) ON DELETE SET NULL;
UPDATE experiments SET creator = coalesce(
    (SELECT user_id FROM projects WHERE projects.id = project_id),
    (SELECT created_by FROM runs WHERE experiment_id = experiments.id ORDER BY id LIMIT 1));
