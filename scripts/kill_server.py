"""Injects faults into a server and its workers at random moments, while clients upload,
submit and follow runs:

    server      the server is killed
    worker      its workers are killed
    interrupt   Ctrl-C in its terminal: SIGINT to its process group
    freeze      a worker hangs for longer than its lease
    clock       the machine's clock is set forward or back by up to a day
    outage      no worker can be started
    disk        the disk of the data is full, during uploads and checkpoints
    s3          the store is an S3 that stalls and resets connections

At the end, nothing that the server acknowledged is lost. Every upload is stored
unchanged. Every run has finished, once, with the losses of an undisturbed run.
`finetuner-server check` finds no fault. Faults that do not kill workers must not
cost a run its worker.

    python scripts/kill_server.py [--rounds 7] [--seed 1] [--only disk] [--binary PATH]

The script needs root, for a small disk in its own mount namespace, and a C
compiler, for the clock.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib
from pathlib import Path

from s3_stand_in import StandIn

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
LEASE = 3
DATA = ROOT / "datasets/emoji-clip"
PAIRS, EPOCHS = 24, 6


def field(number, data):
    """Encodes a protobuf field with a length."""
    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])
    return varint(number << 3 | 2) + varint(len(data)) + data


def documents():
    rows = [r.split(",", 1) for r in (DATA / "fashion/train.csv").read_text().splitlines()]
    frames = b""
    for n, (picture, title) in enumerate(rows[:PAIRS]):
        image = field(1, b"i%d" % n) + field(2, (DATA / picture).read_bytes()) + field(10, b"image")
        text = field(1, b"t%d" % n) + field(4, title.encode()) + field(10, b"text")
        packer = zlib.compressobj(wbits=31)
        frame = packer.compress(field(1, b"d%d" % n) + field(14, image) + field(14, text)) + packer.flush()
        frames += struct.pack(">I", len(frame)) + frame
    return b"\x01" + struct.pack(">Q", PAIRS) + frames


# Shifts the wall clock of a program that is started with this library.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long moved(void) {
    char text[32] = {0};
    int file = open(getenv("MOVED_CLOCK"), O_RDONLY);
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += moved();
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    int result = syscall(SYS_gettimeofday, now, zone);
    now->tv_sec += moved();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


class Server:
    def __init__(self, folder, binary, options=(), environment=None):
        self.folder, self.token = Path(folder), None
        self.data = self.folder / "data"
        self.data.mkdir(exist_ok=True)
        # A separate copy, so that the script can make starting it impossible.
        self.binary = self.folder / "finetuner-server"
        shutil.copy(binary, self.binary)
        self.options, self.environment = list(options), dict(os.environ, **(environment or {}))
        self.environment["TMPDIR"] = str(self.folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.binary, "serve", "--address", self.url.split("//")[1], "--data", self.data,
             "--checkpoint-every", "0.3", "--lease", str(LEASE), "--attempts", "20", *self.options],
            stdout=subprocess.PIPE, stderr=open(self.folder / "log", "ab"), text=True, env=self.environment,
            start_new_session=True)
        for line in self.process.stdout:
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                return
        raise SystemExit("the server does not start: " + (self.folder / "log").read_text()[-2000:])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait() == 0, "it does not exit cleanly"
        self.start()

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def workers(self):
        database = sqlite3.connect(self.data / "finetuner.sqlite", timeout=20)
        port = database.execute("SELECT value FROM settings WHERE name = 'worker port'").fetchone()[0]
        database.close()
        url = f"FINETUNER_WORKER_URL=http://127.0.0.1:{int.from_bytes(port, 'big')}"
        found = []
        for process in Path("/proc").iterdir():
            try:
                if (b"worker" in (process / "cmdline").read_bytes().split(b"\0")
                        and url.encode() in (process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
            except (OSError, ValueError):
                pass
        return found

    def some_workers(self):
        while not (workers := self.workers()):
            time.sleep(0.05)
        return workers

    def call(self, method, path, body=None, kind="application/json", key=None, again=True):
        """Repeats a request until there is an answer. A lost answer may have been a success."""
        for _ in range(400):
            headers = {"Authorization": f"token {self.token}", "Content-Type": kind}
            if key:
                headers["Idempotency-Key"] = key
            request = urllib.request.Request(self.url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise SystemExit(f"{method} {path}: {error.code} {error.read()[:300]}")
            except (OSError, urllib.error.URLError, ConnectionError, EOFError):
                pass
            except Exception as error:
                if "Incomplete" not in type(error).__name__ and "Disconnected" not in str(error):
                    raise
            if not again:
                return None
            time.sleep(0.05)
        raise SystemExit(f"{path}: no answer")

    def json(self, *arguments, **more):
        return json.loads(self.call(*arguments, **more))

    def upload(self, name, content, again=True):
        mark = uuid.uuid4().hex
        head = (f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n').encode()
        rest = "".join(
            f'\r\n--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}'
            for field, value in (("name", name), ("type", "documentArray")))
        body = head + content + rest.encode() + f"\r\n--{mark}--\r\n".encode()
        return self.call("POST", "/v2/rpc/artifact.upload", body, f"multipart/form-data; boundary={mark}", again=again)

    def submit(self, name):
        config = {
            "model": {"name": "clip-small"}, "data": {"train_data": "train"},
            "callbacks": [{"name": "BestModelCheckpoint", "options": {"monitor": "train_loss"}}],
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": EPOCHS, "batch_size": 4, "learning_rate": 1e-4}}
        body = json.dumps({"name": name, "config": config, "device": "cpu"}).encode()
        return self.call("POST", "/api/v1/experiments/e/runs", body, key=name)

    def losses(self, name):
        points = self.json("GET", f"/api/v1/experiments/e/runs/{name}/history")
        return [(p["epoch"], p["step"], p["loss"]) for p in points if p["kind"] == "step"]

    def has_ended(self, run):
        return self.json("GET", f"/api/v1/experiments/e/runs/{run}/status")["status"] in ("FINISHED", "FAILED")


def signal_all(workers, number):
    for pid in workers:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Disturbance:
    """One kind of fault, round after round."""

    def __init__(self, kind, folder, draw, s3=None):
        self.kind, self.folder, self.draw, self.s3_store = kind, folder, draw, s3

    def round(self, server):
        time.sleep(self.draw.random() * 2)
        getattr(self, self.kind)(server)

    def server(self, server):
        server.kill()

    def worker(self, server):
        signal_all(server.some_workers(), signal.SIGKILL)

    def interrupt(self, server):
        server.some_workers()
        server.interrupt()

    def freeze(self, server):
        workers = server.some_workers()
        signal_all(workers, signal.SIGSTOP)
        time.sleep(LEASE + 1 + self.draw.random())
        signal_all(workers, signal.SIGCONT)

    def clock(self, server):
        server.some_workers()
        moved = self.draw.choice([30, 3600, 86400, -30, -3600, -86400, 0])
        (self.folder / "moved").write_text(str(moved))
        time.sleep(1.5)

    def outage(self, server):
        mode = server.binary.stat().st_mode
        server.binary.chmod(0)
        time.sleep(2 + self.draw.random() * 2)
        server.binary.chmod(mode)

    def disk(self, server):
        server.some_workers()
        ballast = server.data / "ballast"
        try:
            with open(ballast, "wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
        except OSError:
            pass
        time.sleep(2 + self.draw.random() * 2)
        ballast.unlink()

    def s3(self, server):
        server.some_workers()
        self.s3_store.faults = 0.3
        time.sleep(2 + self.draw.random() * 2)
        self.s3_store.faults = 0


def work(server, what, done, draw):
    """Uploads and submits until `done`. Returns what the server acknowledged."""
    uploads, runs, open_runs = {}, [], []
    n = 0
    while not done.is_set():
        n += 1
        content = draw.randbytes(draw.randrange(1, 3 << 20))
        name = f"{what}-{n}"
        # A request without an answer may or may not have succeeded.
        if server.upload(name, content, again=False):
            uploads[name] = hashlib.sha256(content).hexdigest()
        open_runs = [run for run in open_runs if not server.has_ended(run)]
        if len(open_runs) < 2:
            run = f"{what}-run-{n}"
            server.submit(run)
            runs.append(run)
            open_runs.append(run)
        time.sleep(draw.random() * 0.3)
    return uploads, runs


def disturb(server, disturbance, rounds, draw):
    """Injects faults at random moments while others work. Then waits until all runs end."""
    done, answered = threading.Event(), []
    worker = threading.Thread(
        target=lambda: answered.append(work(server, disturbance.kind, done, draw)))
    worker.start()
    for _ in range(rounds):
        disturbance.round(server)
        if not worker.is_alive():
            break
    done.set()
    worker.join()
    (disturbance.folder / "moved").write_text("0")
    assert answered, "a client failed"
    uploads, runs = answered[0]
    for run in runs:
        while not server.has_ended(run):
            time.sleep(0.2)
    return uploads, runs


def verify(server, uploads, runs, expected):
    """Checks that every run finished once and that every upload is complete. Returns
    how many workers were lost and how often a run was resumed."""
    lost = resumed = 0
    for run in runs:
        status = server.json("GET", f"/api/v1/experiments/e/runs/{run}/status")
        log = server.call("GET", f"/api/v1/experiments/e/runs/{run}/logs").decode()
        assert status["status"] == "FINISHED", (run, status, log)
        assert log.count("Finished 🚀") == 1, log
        losses = server.losses(run)
        missing, other = ([p for p in a if p not in b] for a, b in ((expected, losses), (losses, expected)))
        assert losses == expected, f"{run} has other losses: without {missing}, with {other}"
        lost += log.count("The worker was lost")
        resumed += log.count("Resuming from a checkpoint")
    for name, digest in uploads.items():
        url = server.json("GET", f"/v2/rpc/artifact.getDownloadUrl?name={name}")["data"]["download"]
        with urllib.request.urlopen(url) as answer:
            assert hashlib.sha256(answer.read()).hexdigest() == digest, name
    return lost, resumed


class Wave:
    """A server for some kinds of faults, and the losses of an undisturbed run."""

    def __init__(self, folder, binary, options=(), environment=None):
        self.folder = folder
        self.server = Server(folder, binary, options, environment)
        self.server.call("POST", "/api/v1/experiments", b'{"name": "e"}')
        self.server.upload("train", documents())
        self.server.submit("undisturbed")
        while not self.server.has_ended("undisturbed"):
            time.sleep(0.2)
        self.expected = self.server.losses("undisturbed")
        assert len(self.expected) == EPOCHS * PAIRS // 4, len(self.expected)
        self.runs, self.uploads = ["undisturbed"], {}

    def disturb(self, disturbance, rounds, draw):
        uploads, runs = disturb(self.server, disturbance, rounds, draw)
        lost, resumed = verify(self.server, uploads, runs, self.expected)
        self.runs += runs
        self.uploads |= uploads
        print(f"{disturbance.kind}: {rounds} rounds; {len(uploads)} uploads complete, {len(runs)} runs ended once with "
              f"the same losses; {lost} workers lost, {resumed} times resumed from a checkpoint", flush=True)
        # Ctrl-C, the clock, an outage and a full disk must not cost a run its worker.
        assert lost == 0 or disturbance.kind in ("server", "worker", "freeze"), "workers were lost"

    def end(self):
        listed = [r["name"] for r in self.server.json("GET", "/api/v1/experiments/e/runs")]
        assert sorted(listed) == sorted(self.runs), "a run is listed twice, or is lost"
        verify(self.server, self.uploads, [], self.expected)
        self.server.stop()
        store = [option for option in self.server.options if option.startswith("s3://")]
        report = subprocess.run(
            [self.server.binary, "check", "--data", self.server.data, *(["--store", *store] if store else [])],
            capture_output=True, text=True, env=self.server.environment)
        assert report.returncode == 0, report.stderr
        print(report.stdout.strip(), flush=True)


KINDS = ["server", "worker", "interrupt", "freeze", "clock", "outage", "disk", "s3"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--binary", type=Path, help="the server; built in release mode by default")
    options = parser.parse_args()
    if "KILL_SERVER_NAMESPACE" not in os.environ:
        os.environ["KILL_SERVER_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, __file__, *sys.argv[1:]])
    kinds = options.only or KINDS
    draw = random.Random(options.seed)
    binary = options.binary
    if binary is None:
        subprocess.run(["cargo", "build", "--release", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
        binary = TARGET / "finetuner-server"
    root = Path(tempfile.mkdtemp())
    waves = []
    begun = time.monotonic()
    try:
        if set(kinds) - {"s3", "disk"}:
            folder = root / "first"
            folder.mkdir()
            (folder / "clock.c").write_text(CLOCK)
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / "clock.so", folder / "clock.c"], check=True)
            environment = {"LD_PRELOAD": str(folder / "clock.so"), "MOVED_CLOCK": str(folder / "moved")}
            waves.append(Wave(folder, binary, environment=environment))
            for kind in kinds:
                if kind not in ("s3", "disk"):
                    waves[-1].disturb(Disturbance(kind, folder, draw), options.rounds, draw)
            waves[-1].end()
        if "disk" in kinds:
            folder = root / "disk"
            folder.mkdir()
            disk = folder / "data"
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "none", disk], check=True)
            waves.append(Wave(folder, binary))
            waves[-1].disturb(Disturbance("disk", folder, draw), options.rounds, draw)
            waves[-1].end()
        if "s3" in kinds:
            folder = root / "s3"
            folder.mkdir()
            with StandIn(options.seed) as s3:
                waves.append(Wave(folder, binary, ["--store", "s3://bucket/models"], s3.environment))
                waves[-1].disturb(Disturbance("s3", folder, draw, s3), options.rounds, draw)
                s3.faults = 0
                print(f"s3: {s3.stalled} requests stalled, {s3.resets} connections reset")
                waves[-1].end()
        print(f"{options.rounds * len(kinds)} rounds in {time.monotonic() - begun:.0f} s: "
              f"{sum(len(w.runs) for w in waves)} runs, {sum(len(w.uploads) for w in waves)} uploads, nothing lost")
    finally:
        for wave in waves:
            if wave.server.process.poll() is None:
                wave.server.stop()
        subprocess.run(["umount", "-q", root / "disk" / "data"], check=False)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
