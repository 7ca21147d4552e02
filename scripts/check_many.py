"""Runs a thousand runs of two users on the two nodes of a real Slurm on this machine:

    over the nodes    `at_once` is the size of the cluster, and the server queues the rest.
                      Measures how long a free slot stays empty, whether both users get
                      equal shares although one of them submits first, and the load of
                      the server
    into the queue    `at_once` is larger than the number of runs, and the cluster is full.
                      Measures how fast the server submits all jobs, and how responsive it
                      stays meanwhile

Each run trains a perceptron for one step, so it mostly consists of the start of a worker.

    apt-get install slurm-wlm munge
    python scripts/check_many.py [--runs 1000] [--places 16] [--binary PATH]

The script needs root.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

from check_slurm import Slurm
from cluster_server import ClusterServer, Failure, wait_for
from kill_server import field

ROOT = Path(__file__).resolve().parent.parent
FEATURES = 8
DOCUMENTS = 8


def documents():
    """Returns features with two labels."""
    frames = b""
    for n in range(DOCUMENTS):
        values = [float((n * 7 + i * 3) % 11) for i in range(FEATURES)]
        dense = field(1, struct.pack(f"<{FEATURES}f", *values)) + field(2, bytes([FEATURES])) + field(3, b"<f4")
        label = field(1, field(1, b"finetuner_label") + field(2, field(3, b"ab"[n % 2:n % 2 + 1])))
        document = field(1, b"d%d" % n) + field(3, field(1, dense) + field(3, b"numpy")) + field(17, label)
        packer = zlib.compressobj(wbits=31)
        frame = packer.compress(document) + packer.flush()
        frames += struct.pack(">I", len(frame)) + frame
    return b"\x01" + struct.pack(">Q", DOCUMENTS) + frames


class ManyServer(ClusterServer):
    """A server with two users."""

    def prepare(self):
        self.tokens = {"anna": self.new_token("anna"), "ben": self.new_token("ben")}
        for user in self.tokens:
            self.token = self.tokens[user]
            self.call("POST", "/api/v1/experiments", b'{"name": "e"}')
            self.upload("train", documents())

    def new_token(self, user):
        made = subprocess.run([self.binary, "token", user, "--data", self.data], capture_output=True, text=True,
                              check=True)
        return made.stdout.strip()

    def submit_many(self, user, count):
        """Submits runs one after the other. Returns the duration of each call."""
        config = {
            "model": {"name": "mlp", "options": {"input_size": FEATURES, "hidden_sizes": [4]}},
            "data": {"train_data": "train"},
            "hyper_parameters": {"loss": "TripletMarginLoss", "epochs": 1, "batch_size": DOCUMENTS}}
        took = []
        for n in range(count):
            body = json.dumps({"name": f"{user}-{n}", "config": config, "device": "cpu", "cpus": 1}).encode()
            request = urllib.request.Request(
                f"{self.url}/api/v1/experiments/e/runs", body, method="POST",
                headers={"Authorization": f"token {self.tokens[user]}", "Content-Type": "application/json"})
            begun = time.perf_counter()
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
            took.append(time.perf_counter() - begun)
        return took

    def rows(self, query):
        with sqlite3.connect(f"file:{self.data}/finetuner.sqlite?mode=ro", uri=True, timeout=60) as database:
            return database.execute(query).fetchall()

    def states(self):
        return dict(self.rows("SELECT status, count(*) FROM runs GROUP BY status"))

    def used(self):
        """Returns CPU seconds and memory in MiB."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(threading.Thread):
    """Polls a server and records the response times."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.ended, self.took = server, threading.Event(), []
        self.memory, self.begun, (self.cpu, _) = 0, time.monotonic(), server.used()
        self.start()

    def run(self):
        path = f"{self.server.url}/api/v1/experiments/e/runs/anna-0/status"
        headers = {"Authorization": f"token {self.server.tokens['anna']}"}
        while not self.ended.wait(0.5):
            begun = time.perf_counter()
            try:
                with urllib.request.urlopen(urllib.request.Request(path, headers=headers), timeout=60) as answer:
                    answer.read()
            except OSError:
                continue
            self.took.append(time.perf_counter() - begun)
            self.memory = max(self.memory, self.server.used()[1])

    def end(self):
        self.ended.set()
        self.join()
        share = (self.server.used()[0] - self.cpu) / (time.monotonic() - self.begun)
        return f"server: {share * 100:.0f} % of a core, {self.memory:.0f} MiB; status: {spread(self.took)}"


def spread(seconds):
    """Returns the median, the 99th percentile and the maximum of times, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    at = [ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]]
    return " / ".join(f"{1000 * s:.0f}" for s in at) + " ms (median, 99 %, most)"


def row(what, told):
    print(f"{what:<28} {told}", flush=True)


def over_the_nodes(slurm, options, folder):
    server = ManyServer(folder / "nodes", options.binary, slurm.settings(), slurm.environment, options.places)
    try:
        server.prepare()
        watch, begun = Watch(server), time.time()
        took = server.submit_many("anna", options.runs // 2)
        second = time.time()
        took += server.submit_many("ben", options.runs // 2)
        row("submitting", f"{options.runs} runs in {time.time() - begun:.0f} s, each {spread(took)}")
        wait_for("all runs end", lambda: server.states().get("FINISHED") == options.runs, 3600, 2)
        row("over the nodes", f"{options.runs} runs, {options.places} at once, in {time.time() - begun:.0f} s; "
                              f"{watch.end()}")
        events = server.rows("""SELECT users.name, min(at), max(at) FROM events
            JOIN runs ON runs.id = run_id
            JOIN users ON users.id = runs.created_by GROUP BY run_id ORDER BY min(at)""")
        begins = [at / 1000 for _, at, _ in events]
        ends = sorted(at / 1000 for _, _, at in events)
        gaps = [begin - end for begin, end in zip(begins[options.places:], ends)]
        row("a free slot stays empty", f"{statistics.median(gaps):.1f} s (median), {max(gaps):.1f} s (most)")
        # From the moment when both users had waiting runs until one of them had none.
        both = [user for user, at, _ in events if at / 1000 > second + 10]
        last = min(max(i for i, user in enumerate(both) if user == name) for name in ("anna", "ben"))
        both = both[:last + 1]
        ahead, widest = 0, 0
        for user in both:
            ahead += 1 if user == "anna" else -1
            widest = max(widest, abs(ahead))
        row("fairness", f"while both waited, anna began {both.count('anna')} runs and ben {both.count('ben')}; "
                        f"neither was ever more than {widest} ahead")
        lost = server.rows("SELECT count(*) FROM runs WHERE launches > 1")[0][0]
        row("launched more than once", f"{lost} runs")
    finally:
        server.stop()


def into_the_queue(slurm, options, folder):
    server = ManyServer(folder / "queue", options.binary, slurm.settings(), slurm.environment, options.runs + 100)
    try:
        server.prepare()
        with slurm.full():
            watch, begun = Watch(server), time.time()
            threads = [threading.Thread(target=server.submit_many, args=(user, options.runs // 2))
                       for user in server.tokens]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            submitted = time.time() - begun
            wait_for("all jobs are in Slurm's queue", lambda: len(slurm.open_jobs()) >= options.runs, 1800, 2)
            row("into the queue", f"{options.runs} runs submitted in {submitted:.0f} s, their jobs in Slurm's queue "
                                  f"after {time.time() - begun:.0f} s; {watch.end()}")
            begun = time.time()
            for user in server.tokens:
                server.token = server.tokens[user]
                server.call("DELETE", "/api/v1/experiments/e")
            wait_for("no job is left", lambda: not slurm.open_jobs(), 1800, 2)
            row("cancelled", f"{options.runs} runs whose jobs wait, in {time.time() - begun:.0f} s")
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="finetuner-server; built in debug mode by default")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--places", type=int, default=16, help="number of runs that the cluster can run at once")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the script needs root, for nodes in separate namespaces")
    if options.binary is None:
        subprocess.run(["cargo", "build", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
        options.binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/finetuner-server"
    options.binary = options.binary.resolve()
    folder = Path(tempfile.mkdtemp(prefix="finetuner-many-"))
    folder.chmod(0o711)
    slurm = Slurm(argparse.Namespace(places=options.places, binary=options.binary), folder)
    try:
        slurm.start()
        over_the_nodes(slurm, options, folder)
        into_the_queue(slurm, options, folder)
    except Failure as failure:
        print(f"FAILED: {failure}\nThe logs are in {folder}")
        sys.exit(1)
    finally:
        slurm.stop()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
