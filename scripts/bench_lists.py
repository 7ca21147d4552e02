"""Measures how long the console takes for a list of many runs: complete, filtered and
sorted by metrics, hyper-parameters, states, tags and texts, and as a CSV file.

    python scripts/bench_lists.py [--runs 10000] [--profile release] [--limit 300]

Fails if the median time of a page exceeds `--limit` milliseconds. The script inserts
the runs into the database between two starts of the server.
"""

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ("first page", ""),
    ("last page", "page=100000"),
    ("text", "q=run-77"),
    ("state", "state=failed"),
    ("tag", "tag=baseline"),
    ("metric", "sort=-recall_at_8"),
    ("change of a metric", "sort=recall_at_8.change"),
    ("hyper-parameter", "sort=learning_rate"),
    ("duration", "sort=-duration"),
    ("state, sorted", "sort=state"),
    ("conditions", "filter=" + urllib.parse.quote("learning_rate<1e-4, recall_at_8>0.5") + "&sort=-recall_at_8"),
    ("all at once", "filter=" + urllib.parse.quote("epochs>=5, tags~base") + "&state=finished&q=run&sort=-recall_at_8"),
]


class Server:
    def __init__(self, program, data):
        self.process = subprocess.Popen([program, "serve", "--address", "127.0.0.1:0", "--data", data],
                                        stdout=subprocess.PIPE, text=True)
        self.token = None
        for line in self.process.stdout:
            if "is ready at" in line:
                self.url = line.split()[-1]
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                break

    def stop(self):
        self.process.terminate()
        self.process.wait()


def fill(data, runs):
    """Inserts ten experiments with this number of runs in total, in the client's format."""
    db = sqlite3.connect(Path(data) / "finetuner.sqlite")
    user = db.execute("SELECT id FROM users").fetchone()[0]
    draw = random.Random(0)
    for experiment in range(1, 11):
        db.execute("INSERT INTO experiments (id, project_id, name, description, created_at) "
                   "VALUES (?, ?, ?, '', '2026-01-01T00:00:00.000Z')", [experiment, user, f"experiment-{experiment}"])

    def row(number):
        config = {
            "model": {"name": "openai/clip-vit-base-patch32", "freeze": False, "output_dim": None, "options": {"seed": number}},
            "data": {"train_data": f"train-{number % 7}", "eval_data": "eval", "num_workers": 8},
            "hyper_parameters": {
                "loss": "CLIPLoss", "optimizer": "Adam", "epochs": draw.randint(1, 20), "optimizer_options": {},
                "batch_size": draw.choice([16, 32, 64, 128]), "learning_rate": 10 ** draw.uniform(-6, -3),
                "scheduler": "linear", "scheduler_options": {"num_warmup_steps": 100}},
            "callbacks": [{"name": "EvaluationCallback", "options": {
                "query_data": "query", "index_data": "index", "limit": 8, "gather_examples": True}},
                {"name": "BestModelCheckpoint", "options": {"monitor": "val_loss", "verbose": False}}],
            "experiment_name": "e", "run_name": f"run-{number}", "public": False,
        }
        names = ["average_precision", "hit_at_k", "ndcg_at_k", "precision_at_k", "recall_at_k", "reciprocal_rank"]
        metrics = {stage: {name: draw.random() for name in names} for stage in ("before", "after")}
        status, details = draw.choice([("FINISHED", "Run finished"), ("FINISHED", "Run finished"),
                                       ("FAILED", "the loss is not finite"), ("FAILED", "Run cancelled by finetuner")])
        tags = draw.sample(["baseline", "long queries", "reviewed", "small"], draw.randint(0, 2))
        started = 1767225600000 + number * 1000
        return (number, number % 10 + 1, f"run-{number}", json.dumps(config), status, details, f"{number:024x}",
                json.dumps(metrics), started, started + draw.randint(1000, 10**7), json.dumps(tags))

    db.executemany(
        "INSERT INTO runs (id, experiment_id, name, description, config, device, task, status, details, created_at, "
        "artifact_id, metrics, started_at, ended_at, tags) VALUES (?, ?, ?, '', ?, 'cuda', 'training', ?, ?, "
        "'2026-01-01T00:00:00.000Z', ?, ?, ?, ?, ?)", map(row, range(1, runs + 1)))
    db.commit()
    db.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--profile", choices=["debug", "release"], default="release")
    parser.add_argument("--limit", type=float, default=300)
    options = parser.parse_args()
    if options.profile == "release":
        subprocess.run(["cargo", "build", "--release", "-p", "finetuner-server"], check=True, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / options.profile
    slow = []
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        first = Server(target / "finetuner-server", data)
        first.stop()
        fill(data, options.runs)
        server = Server(target / "finetuner-server", data)
        try:
            def get(path):
                request = urllib.request.Request(server.url + path, headers={"Cookie": f"finetuner_session={first.token}"})
                began = time.perf_counter()
                with urllib.request.urlopen(request, timeout=120) as answer:
                    length = len(answer.read())
                return (time.perf_counter() - began) * 1e3, length

            cases = [(name, f"/console/runs?{query}") for name, query in PAGES]
            cases.append(("one experiment", "/console/experiments/experiment-1?sort=-recall_at_8"))
            cases.append(("CSV file", "/console/runs/csv"))
            for name, path in cases:
                taken = [get(path) for _ in range(7)]
                median = statistics.median(time for time, _ in taken)
                print(f"{name:<20} {median:8.0f} ms   {taken[0][1] / 1024:8.0f} KiB")
                if median > options.limit and name != "CSV file":
                    slow.append(name)
        finally:
            server.stop()
    if slow:
        sys.exit(f"slower than {options.limit:.0f} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
