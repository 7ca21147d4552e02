"""A server whose runs are jobs of a cluster engine, and namespaces that simulate several
machines on this one."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import time
from datetime import datetime
from pathlib import Path

from kill_server import PAIRS, Server, documents

BATCH = 4
# The server's default.
LEASE = 25


def own_address():
    """Returns an address of this machine other than loopback: workers are never given
    a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only chooses a route.
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            found = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
            if not found:
                raise SystemExit("this machine has only a loopback address")
            return found[0]


def wait_for(what, condition, seconds=180, pause=0.3):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise Failure(f"not within {seconds} s: {what}")


def read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Failure(Exception):
    pass


class ClusterServer(Server):
    """A server with a settings file."""

    def __init__(self, folder, binary, launcher, environment=None, at_once=2):
        self.folder, self.token = Path(folder), None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "data"
        self.binary = binary
        self.environment = dict(os.environ, RAYON_NUM_THREADS="1", **(environment or {}))
        host = own_address()
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        # For workers.
        self.url = f"http://{host}:{port}"
        # For programs on this machine, without TLS.
        self.local_url = f"http://127.0.0.1:{port}"
        (self.folder / "settings.toml").write_text(f"""
[server]
address = "0.0.0.0:{port}"
data = "{self.data}"
grace = 20

[runs]
at_once = {at_once}
lease = {LEASE}
checkpoint_every = 0.3
attempts = 5

[workers]
url = "{self.url}"
max_cpus = 1
max_gpus = 0
job_grace = 10
first_call = 120

{launcher}
""")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.binary, "--settings", self.folder / "settings.toml", "serve"], stdout=subprocess.PIPE,
            stderr=open(self.folder / "log", "ab"), text=True, env=self.environment, start_new_session=True)
        for line in self.process.stdout:
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                return
        raise SystemExit("the server does not start: " + (self.folder / "log").read_text()[-2000:])

    def prepare(self):
        self.call("POST", "/api/v1/experiments", b'{"name": "e"}')
        self.upload("train", documents())

    def submit(self, name, epochs):
        config = {
            "model": {"name": "clip-small"}, "data": {"train_data": "train"},
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": epochs, "batch_size": BATCH, "learning_rate": 1e-4}}
        body = json.dumps({"name": name, "config": config, "device": "cpu", "cpus": 1}).encode()
        return self.call("POST", "/api/v1/experiments/e/runs", body, key=name)

    def status(self, run):
        return self.json("GET", f"/api/v1/experiments/e/runs/{run}/status")

    def log_of(self, run):
        return self.call("GET", f"/api/v1/experiments/e/runs/{run}/logs").decode()

    def wait_for_training(self, runs, count, steps, seconds=300):
        """Waits until `count` of these runs train. Returns the losses that the server has
        acknowledged so far, for all runs that have not ended."""
        losses = {run: [] for run in runs}

        def train():
            for run in runs:
                if len(losses[run]) < steps:
                    losses[run] = self.losses(run)
            return sum(len(known) >= steps for known in losses.values()) >= count
        wait_for(f"{count} of {len(runs)} runs train", train, seconds, pause=0.2)
        losses = {run: self.losses(run) for run in runs}
        open_runs = [run for run in runs if not self.has_ended(run)]
        if not open_runs:
            raise Failure("all runs had ended before the fault")
        return {run: losses[run] for run in open_runs}

    def wait_for_end(self, runs, seconds=600):
        left = set(runs)

        def end():
            left.difference_update([run for run in left if self.has_ended(run)])
            return not left
        wait_for(f"runs end: {left}", end, seconds, pause=1)

    def verify(self, run, expected, acknowledged=()):
        """Checks that a run ended once, with the expected losses, and lost nothing that the
        server had acknowledged. Returns how often it was lost, and how often it was
        resumed."""
        status, log, losses = self.status(run), self.log_of(run), self.losses(run)
        if status["status"] != "FINISHED" or log.count("Finished 🚀") != 1:
            raise Failure(f"{run}: {status}\n{log}")
        if losses != expected:
            raise Failure(f"{run} has other losses: {len(losses)} steps, {len(expected)} expected, "
                          f"first difference {next((p for p in zip(losses, expected) if p[0] != p[1]), None)}\n{log}")
        if losses[:len(acknowledged)] != list(acknowledged):
            raise Failure(f"{run} has lost steps that were acknowledged\n{log}")
        listed = [r["name"] for r in self.json("GET", "/api/v1/experiments/e/runs")]
        if listed.count(run) != 1:
            raise Failure(f"{run} is listed {listed.count(run)} times")
        return log.count("The worker was lost"), log.count("Resuming from a checkpoint")

    def noticed(self, run, since):
        """Returns when the server first noticed that the run's worker was lost, in seconds
        after a wall-clock time. Returns None if it did not."""
        with sqlite3.connect(f"file:{self.data}/finetuner.sqlite?mode=ro", uri=True, timeout=20) as database:
            [[number]] = database.execute("SELECT id FROM runs WHERE name = ?", [run]).fetchall()
        for line in read(self.folder / "log").splitlines():
            line = re.sub("\x1b\\[[0-9;]*m", "", line)
            if f" Run {number}: The worker was lost" in line:
                moment = datetime.fromisoformat(line.split()[0]).timestamp()
                if moment >= since:
                    return moment - since
        return None

    def all_curves(self):
        """Returns for each run, in the order in which the server lists them, all its points:
        losses of steps and epochs, and metrics. They are without their numbers and times."""
        found = []
        for experiment in self.json("GET", "/api/v1/experiments"):
            of = f"/api/v1/experiments/{experiment['name']}/runs"
            for run in self.json("GET", of):
                points = self.json("GET", f"{of}/{run['name']}/history")
                found.append([{name: p[name] for name in p if name not in ("number", "at")} for p in points])
        return found

    def check(self):
        """Compares everything that the stopped server stores with its SHA-256."""
        checked = subprocess.run([self.binary, "check", "--data", self.data], capture_output=True, text=True)
        if checked.returncode:
            raise Failure(f"`check` finds faults: {checked.stderr}")
        return checked.stdout.strip()


class Namespace:
    """Starts a program in its own namespace, like on a separate machine: killing it also
    kills everything that it started."""

    def __init__(self, command, log, environment=None):
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command], stdin=subprocess.DEVNULL,
            stdout=open(log, "ab"), stderr=subprocess.STDOUT, start_new_session=True,
            env=dict(os.environ, **(environment or {})))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def children(pid):
    """Returns the ids of all processes below a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
        except (OSError, ValueError, IndexError):
            pass
    found, left = [], [pid]
    while left:
        below = parents.get(left.pop(), [])
        found += below
        left += below
    return found


def descendants_named(pid, part):
    found = []
    for child in children(pid):
        try:
            if part in (Path("/proc") / str(child) / "cmdline").read_text().replace("\0", " "):
                found.append(child)
        except OSError:
            pass
    return found
