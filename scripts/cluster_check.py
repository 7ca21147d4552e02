"""What check_ray.py and check_slurm.py have in common: a server whose runs are
jobs of a real engine, faults, and the proof that each run ended once, with the
losses of a run in a child process to the bit."""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_server import PAIRS, Server, documents

ROOT = Path(__file__).resolve().parent.parent
BATCH = 4
LEASE = 15


def own_address():
    """The address of this machine that is not the loopback's: workers are never
    given a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the system only chooses a way.
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            found = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
            if not found:
                raise SystemExit("this machine has no address but the loopback's")
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

    def __init__(self, folder, binary, launcher, environment=None):
        self.folder, self.token = Path(folder), None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "data"
        self.binary = binary
        self.environment = dict(os.environ, RAYON_NUM_THREADS="1", **(environment or {}))
        host = own_address()
        with socket.socket() as free:
            free.bind((host, 0))
            self.url = f"http://{host}:{free.getsockname()[1]}"
        (self.folder / "settings.toml").write_text(f"""
[server]
address = "{self.url.split('//')[1]}"
data = "{self.data}"
grace = 20

[runs]
at_once = 2
lease = {LEASE}
checkpoint_every = 0.3
attempts = 5

[workers]
url = "{self.url}"
max_cpus = 1
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

    def wait_for_training(self, run, steps=3):
        def trains():
            if self.has_ended(run):
                raise Failure(f"{run} ended before the fault: {self.status(run)}")
            return len(self.losses(run)) >= steps
        wait_for(f"{run} trains: {self.status(run)}", trains, pause=0.1)

    def wait_for_end(self, run, seconds=300):
        wait_for(f"{run} ends", lambda: self.has_ended(run), seconds)

    def verify(self, run, expected):
        status, log, losses = self.status(run), self.log_of(run), self.losses(run)
        if status["status"] != "FINISHED" or log.count("Finished 🚀") != 1:
            raise Failure(f"{run}: {status}\n{log}")
        if losses != expected:
            raise Failure(f"{run} has other losses: {len(losses)} steps, {len(expected)} expected, "
                          f"first difference {next((p for p in zip(losses, expected) if p[0] != p[1]), None)}\n{log}")
        listed = [r["name"] for r in self.json("GET", "/api/v1/experiments/e/runs")]
        if listed.count(run) != 1:
            raise Failure(f"{run} is listed {listed.count(run)} times")
        resumed = len(re.findall("Going on from a checkpoint", log))
        lost = len(re.findall("The worker was lost", log))
        return f"{lost} lost, {resumed} resumed"


class Namespace:
    """A program with all that it starts, as if it had a machine of its own:
    killing it leaves nothing."""

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
    """All processes below a process, by their ids."""
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


class Trial:
    """A cluster, a server, and what an undisturbed run measures."""

    def __init__(self, cluster, options, folder):
        self.cluster, self.options, self.folder = cluster, options, folder
        self.rows, self.failed, self.number = [], False, 0

    def row(self, what, seconds, told):
        self.rows.append((what, seconds, told))
        print(f"{what:<34} {seconds:6.1f} s   {told}", flush=True)

    def reference(self):
        """The losses of a run in a child process."""
        begun = time.monotonic()
        server = ClusterServer(self.folder / "processes", self.options.binary, '[launcher]\nkind = "processes"')
        try:
            server.prepare()
            server.submit("reference", self.options.epochs)
            server.wait_for_end("reference")
            expected = server.losses("reference")
            server.verify("reference", expected)
        finally:
            server.stop()
        if len(expected) != self.options.epochs * PAIRS // BATCH:
            raise Failure(f"{len(expected)} steps")
        self.row("processes, undisturbed", time.monotonic() - begun, f"{len(expected)} steps")
        return expected

    def server(self, name="server"):
        server = ClusterServer(self.folder / name, self.options.binary, self.cluster.settings(), self.cluster.environment)
        server.prepare()
        return server

    def run(self):
        cluster = self.cluster
        try:
            begun = time.monotonic()
            cluster.start()
            self.row(f"{cluster.name} starts", time.monotonic() - begun, cluster.version())
            expected = self.reference()
            self.one_server, server = self.server(), None
            server = self.one_server
            try:
                self.fault("none", server, expected)
                for _ in range(self.options.rounds):
                    for kind in self.options.faults:
                        self.fault(kind, server, expected)
            finally:
                server.stop()
            left = wait_for("no job is left", lambda: not cluster.open_jobs(), 60) and "none"
            self.row("jobs left", 0, left)
        finally:
            cluster.stop()
        return not self.failed

    def fault(self, kind, server, expected):
        self.number += 1
        run = f"{kind}-{self.number}"
        begun = time.monotonic()
        try:
            told = getattr(self, f"fault_{kind}")(server, run, expected)
        except Failure as failure:
            self.failed, told = True, f"FAILED: {failure}"
        self.row(kind, time.monotonic() - begun, told)

    def begin(self, server, run):
        server.submit(run, self.options.epochs)
        server.wait_for_training(run)

    def end(self, server, run, expected):
        server.wait_for_end(run)
        return server.verify(run, expected)

    def resumed(self, server, run, expected):
        told = self.end(server, run, expected)
        if "Going on from a checkpoint" not in server.log_of(run):
            raise Failure(f"the fault came too late, or no checkpoint was used: {server.log_of(run)}")
        return told

    def fault_none(self, server, run, expected):
        self.begin(server, run)
        arguments = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
        shown = self.cluster.shown() + "".join(arguments)
        if re.search("ft_[0-9a-f]{64}", shown):
            raise Failure(f"others see a token: {shown}")
        if run not in shown:
            raise Failure(f"the names of runs are not shown: {shown}")
        return f"{self.end(server, run, expected)}; no token in {len(shown)} bytes that others see"

    def fault_node(self, server, run, expected):
        """The node of the job is killed with all its processes."""
        self.begin(server, run)
        self.cluster.kill_node()
        self.cluster.start_node()
        return self.resumed(server, run, expected)

    def fault_head(self, server, run, expected):
        """The engine's head is killed and started again."""
        self.begin(server, run)
        told = self.cluster.restart_head()
        return f"{self.end(server, run, expected)}; {told}"

    def fault_server(self, server, run, expected):
        """The server is killed, and started again after a while."""
        self.begin(server, run)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        time.sleep(3)
        server.start()
        return self.end(server, run, expected)

    def fault_stopped_server(self, server, run, expected):
        """The server is told to stop, and started again."""
        self.begin(server, run)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        server.start()
        return self.end(server, run, expected)

    def fault_away(self, server, run, expected):
        """The engine does not answer; one run trains, another is submitted."""
        self.begin(server, run)
        with self.cluster.away():
            server.submit(f"{run}-later", self.options.epochs)
            time.sleep(self.options.away)
        server.wait_for_end(f"{run}-later")
        later = server.verify(f"{run}-later", expected)
        return f"{self.end(server, run, expected)}; submitted meanwhile: {later}; {self.options.away:g} s away"

    def fault_pending(self, server, run, expected):
        """A job waits for longer than a lease, because others fill the cluster."""
        with self.cluster.full():
            server.submit(run, self.options.epochs)
            words = wait_for("it is told where the run waits", lambda: self.waits(server, run), 60)
            time.sleep(LEASE + 5)
            if server.has_ended(run) or server.losses(run):
                raise Failure("it did not wait")
        return f"{self.end(server, run, expected)}; status: {words}"

    @staticmethod
    def waits(server, run):
        told = json.dumps(server.status(run))
        found = re.search(r"waiting in [^\"]*queue, job [^\"]*", told)
        return found and found.group()

    def fault_stopped_job(self, server, run, expected):
        """Somebody stops the job by the engine's own means."""
        self.begin(server, run)
        self.cluster.stop_job()
        return self.resumed(server, run, expected)

    def fault_preempt(self, server, run, expected):
        """The engine needs the machine for something more urgent."""
        self.begin(server, run)
        self.cluster.preempt()
        return self.resumed(server, run, expected)

    def fault_restart(self, server, run, expected):
        """The engine's controller is stopped in order and started again."""
        self.begin(server, run)
        told = self.cluster.restart_head(in_order=True)
        return f"{self.end(server, run, expected)}; {told}"

    def fault_cancel(self, server, run, expected):
        """A run is deleted while it trains, and another while it waits."""
        self.begin(server, run)
        server.call("DELETE", f"/api/v1/experiments/e/runs/{run}")
        wait_for("the job ends", lambda: not self.cluster.open_jobs(), 60)
        with self.cluster.full():
            server.submit(f"{run}-waits", self.options.epochs)
            wait_for("it waits", lambda: self.waits(server, f"{run}-waits"), 60)
            server.call("DELETE", f"/api/v1/experiments/e/runs/{run}-waits")
        wait_for("the job that waited ends", lambda: not self.cluster.open_jobs(), 90)
        return "both jobs ended"

    def fault_two(self, server, run, expected):
        """Two servers have runs on one cluster; one of them is killed for a while."""
        other = self.server(f"other-{self.number}")
        try:
            self.begin(server, run)
            self.begin(other, run)
            other.process.send_signal(signal.SIGKILL)
            other.process.wait()
            time.sleep(2)
            other.start()
            return f"{self.end(server, run, expected)}; other server: {self.end(other, run, expected)}"
        finally:
            other.stop()


def main(cluster_type, description, quick):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="finetuner-server; built in debug mode where it is not given")
    parser.add_argument("--quick", action="store_true", help=f"one run without a fault, and one with `{quick}`")
    parser.add_argument("--fault", dest="faults", choices=cluster_type.faults, action="append", help="all by default")
    parser.add_argument("--rounds", type=int, default=1, help="of each fault")
    parser.add_argument("--epochs", type=int, default=12, help="of each run")
    parser.add_argument("--away", type=float, default=120, help="seconds for which the engine does not answer")
    parser.add_argument("--keep", action="store_true", help="keep all logs, and say where")
    cluster_type.add_options(parser)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("root is needed, for nodes in namespaces of their own")
    options.faults = [quick] if options.quick else options.faults or cluster_type.faults
    if options.binary is None:
        subprocess.run(["cargo", "build", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
        options.binary = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/finetuner-server"
    options.binary = options.binary.resolve()
    folder = Path(tempfile.mkdtemp(prefix="finetuner-cluster-"))
    # Another user must find the cluster's configuration.
    folder.chmod(0o711)
    begun = time.monotonic()
    good = False
    try:
        trial = Trial(cluster_type(options, folder), options, folder)
        good = trial.run()
        print(f"{len(trial.rows)} rows in {time.monotonic() - begun:.0f} s: {'all good' if good else 'FAILED'}")
    finally:
        if options.keep or not good:
            print(f"The logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)
