"""Runs a server against a real Ray on this machine, with a head and a worker node
in separate process namespaces, and injects faults:

    node            the node of training runs is killed with its processes
    head            the head is killed and a new one started: Ray forgets its jobs
    server          the server is killed and started again
    stopped_server  the server is stopped in order and started again
    away            the dashboard hangs (2 minutes, see --away)
    pending         jobs wait for longer than a lease (see --pending)
    stopped_job     somebody stops the jobs: SIGTERM
    cancel          runs are deleted, while one trains and while one waits
    two             two servers share the cluster, and one of them is killed
    example         no fault: the program text_to_image, unchanged, must have the same losses and
                    metrics on threads, on child processes and on Ray (only if named)

With --runs 20, twenty runs are training or waiting at each fault. Each must end once,
with losses identical to those of a run in a child process. The cluster requires a token.

    python -m venv /tmp/ray && /tmp/ray/bin/pip install "ray[default]"
    python scripts/check_ray.py --ray /tmp/ray/bin/ray [--quick] [--fault node] [--runs 1] [--rounds 1]
        [--binary PATH]
    cargo build --release --example text_to_image
    python scripts/check_ray.py --ray /tmp/ray/bin/ray --fault example
        --example target/release/examples/text_to_image [--epochs 12] [--binary PATH]
    python scripts/check_ray.py --ray /tmp/ray/bin/ray --record crates/server/src/launcher/ray/recorded.json

The script needs root. The last form records Ray's answers for the tests of the
launcher.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from cluster_check import main
from cluster_server import Failure, Namespace, descendants_named, wait_for

HEAD, WORKERS = "127.0.0.2", ["127.0.0.3", "127.0.0.4"]


class Ray:
    name = "Ray"
    faults = ["node", "head", "server", "stopped_server", "away", "pending", "stopped_job", "cancel", "two"]
    environment = {}

    @staticmethod
    def add_options(parser):
        parser.add_argument("--ray", default="ray", help="the program `ray`")

    def __init__(self, options, folder):
        if not shutil.which(options.ray):
            raise SystemExit(f'{options.ray} not found: pip install "ray[default]", and name it with --ray')
        self.options, self.folder = options, folder
        self.ray = str(Path(shutil.which(options.ray)).absolute())
        self.token = secrets.token_hex(32)
        self.token_file = folder / "token"
        self.token_file.write_text(self.token)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self.port, self.dashboard = (one.getsockname()[1] for one in sockets)
        self.head = self.node = None
        # Independent of the cores of this machine.
        self.cores = max(2, options.places)
        self.fillers = 0
        # Ray limits the length of the paths of its sockets.
        self.temporary = tempfile.mkdtemp(prefix="ray-")

    def begin(self, log, *options):
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file),
                       "RAY_USAGE_STATS_ENABLED": "0"}
        command = [self.ray, "start", "--block", "--disable-usage-stats", "--object-store-memory=80000000", *options]
        return Namespace(command, self.folder / log, environment)

    def start_head(self):
        # The head has no cores, so all jobs run on the worker node.
        self.head = self.begin(
            "head.log", "--head", f"--port={self.port}", "--num-cpus=0", f"--node-ip-address={HEAD}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}", "--include-dashboard=true",
            f"--temp-dir={self.temporary}")
        wait_for("the dashboard answers", lambda: self.call("GET", "/api/version")[0] == 200, 60)

    def start_node(self):
        self.fillers += 1
        self.node = self.begin(
            "worker.log", f"--address={HEAD}:{self.port}", f"--num-cpus={self.cores}",
            f"--node-ip-address={WORKERS[self.fillers % 2]}")

    def start(self):
        self.start_head()
        self.start_node()
        wait_for("the worker node is alive", lambda: self.alive() >= 2, 60)

    def alive(self):
        status, text = self.call("GET", "/nodes?view=summary")
        if status != 200:
            return 0
        return sum(n["raylet"].get("state") == "ALIVE" for n in json.loads(text)["data"]["summary"])

    def call(self, method, path, body=None, raw=None, token=None):
        data = raw if raw is not None else body and json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.dashboard}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def version(self):
        return "Ray " + json.loads(self.call("GET", "/api/version")[1])["ray_version"]

    def settings(self):
        return f"""[launcher]
kind = "ray"
[launcher.ray]
address = "http://127.0.0.1:{self.dashboard}"
token_file = "{self.token_file}"
program = "{self.options.binary}"
stop_seconds = 20
"""

    def jobs(self, *states):
        status, text = self.call("GET", "/api/jobs/")
        if status != 200:
            raise Failure(f"Ray's list: {status} {text}")
        return [job for job in json.loads(text)
                if (job["submission_id"] or "").startswith("ft-") and job["status"] in states]

    def open_jobs(self):
        return self.jobs("PENDING", "RUNNING")

    def shown(self):
        """Returns everything that Ray shows of the jobs, and the remaining files of their packages."""
        job = self.jobs("RUNNING")[0]
        paths = ["/api/jobs/", "/api/v0/jobs?detail=1", "/api/v0/actors?detail=1", "/api/v0/runtime_envs?detail=1",
                 f"/api/jobs/{job['submission_id']}/logs"]
        left = [file.read_text() for file in Path(self.temporary).glob("*/runtime_resources/**/start")]
        return "".join(self.call("GET", path)[1] for path in paths) + "".join(left)

    def kill_nodes(self):
        self.node.kill()
        self.start_node()
        return 1

    def restart_head(self):
        self.head.kill()
        time.sleep(2)
        self.start_head()
        # Nodes of the old head end by themselves after a minute. An operator or a
        # service manager would restart them.
        killed = time.time()
        self.node.kill()
        self.start_node()
        return "a new head knows no jobs", killed

    @contextlib.contextmanager
    def away(self):
        pids = descendants_named(self.head.process.pid, "dashboard/dashboard.py")
        if not pids:
            raise Failure("there is no process of the dashboard")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def full(self):
        name = f"filler-{secrets.token_hex(4)}"
        self.submit(name, "exec sleep 3600", entrypoint_num_cpus=self.cores)
        self.wait(name, "RUNNING")
        try:
            yield
        finally:
            self.call("POST", f"/api/jobs/{name}/stop")

    def submit(self, name, entrypoint, **more):
        return self.call("POST", "/api/jobs/", {"submission_id": name, "entrypoint": entrypoint, **more})

    def wait(self, name, *states):
        def state():
            status, text = self.call("GET", f"/api/jobs/{name}")
            return status == 200 and json.loads(text)["status"] in states
        wait_for(f"{name} is {states}", state, 60)

    def stop_jobs(self):
        for job in self.jobs("RUNNING"):
            self.call("POST", f"/api/jobs/{job['submission_id']}/stop")

    def stop(self):
        for node in (self.node, self.head):
            if node:
                node.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def record(self):
        """Records Ray's answers to all calls of the launcher."""
        answers = {}

        def note(what, answer):
            status, text = answer
            # Without the paths of this machine's Python.
            text = re.sub(r"/[^\s\"']*/(?=(site-packages|asyncio)/)", "/", text)
            answers[what] = {"status": status, "body": text}

        def package():
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as file:
                file.writestr("start", "a token")
            return content.getvalue()

        def job(n, entrypoint, **more):
            name = f"ft-0123abcd-{n}-1"
            put = self.call("PUT", f"/api/packages/gcs/{name}.zip", raw=package())
            more = {"entrypoint_num_cpus": 1, "metadata": {"run": "a", "user": "ada", "experiment": "e"},
                    "runtime_env": {"working_dir": f"gcs://{name}.zip",
                                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "2"}}, **more}
            return name, put, self.submit(name, entrypoint, **more)

        name, put, submitted = job(1, "exec sleep 600")
        note("package", put)
        note("submitted", submitted)
        note("submitted again", self.submit(name, "exec sleep 600"))
        self.wait(name, "RUNNING")
        note("known", self.call("GET", f"/api/jobs/{name}"))
        note("unknown", self.call("GET", "/api/jobs/ft-0123abcd-99-1"))
        note("unknown stopped", self.call("POST", "/api/jobs/ft-0123abcd-99-1/stop"))
        note("wrong field", self.call("POST", "/api/jobs/", {"entrypoint": "true", "nonsense": 1}))
        note("no token", self.call("GET", "/api/jobs/", token="wrong"))
        stopped = job(2, "exec sleep 600")[0]
        self.wait(stopped, "RUNNING")
        note("stopped", self.call("POST", f"/api/jobs/{stopped}/stop"))
        self.wait(stopped, "STOPPED")
        for n, entrypoint, state in ((3, "true", "SUCCEEDED"), (4, "exec finetuner-server worker", "FAILED"),
                                     (5, "exec sleep 600", "RUNNING")):
            self.wait(job(n, entrypoint)[0], state)
        job(6, "exec sleep 600")
        self.wait(job(7, "true", runtime_env={"working_dir": "gcs://none.zip"}, entrypoint_num_cpus=0)[0], "FAILED")
        note("list", self.call("GET", "/api/jobs/"))
        self.node.kill()
        self.wait(name, "FAILED")
        note("list without a node", self.call("GET", "/api/jobs/"))
        note("deleted", self.call("DELETE", f"/api/jobs/{name}"))
        return answers


def record(path):
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--record")
    Ray.add_options(parser)
    options = parser.parse_args()
    options.places = 1
    with tempfile.TemporaryDirectory() as folder:
        ray = Ray(options, Path(folder))
        try:
            ray.start()
            answers = {"ray": ray.version(), **ray.record()}
        finally:
            ray.stop()
    Path(path).write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    if "--record" in sys.argv:
        record(sys.argv[sys.argv.index("--record") + 1])
    else:
        main(Ray, __doc__, "server")
