"""Kills the server, then its workers, at random moments, while somebody uploads,
submits and follows runs. In the end nothing is lost that was answered with yes:
every upload is there as it was sent, every run has ended well, once, and with
the losses of one that nobody disturbed; `finetuner-server check` finds no fault.

    python scripts/kill_server.py [--kills 50] [--seed 1]
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
DATA = ROOT / "datasets/emoji-clip"
PAIRS, EPOCHS = 24, 6


def field(number, data):
    """A field of a protobuf message with a length."""
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


class Server:
    def __init__(self, folder):
        self.folder, self.token, self.kills = folder, None, 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [TARGET / "finetuner-server", "serve", "--address", self.url.split("//")[1], "--data",
             f"{self.folder}/data", "--checkpoint-every", "0.3", "--lease", "3", "--attempts", "1000"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                return
        raise SystemExit("the server does not start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def workers(self):
        found = []
        for process in Path("/proc").iterdir():
            try:
                if (b"worker" in (process / "cmdline").read_bytes().split(b"\0")
                        and f"FINETUNER_WORKER_URL={self.url}".encode()
                        in (process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
            except (OSError, ValueError):
                pass
        return found

    def call(self, method, path, body=None, kind="application/json", key=None, again=True):
        """Asks until there is an answer; one that is lost may have been yes."""
        for _ in range(400):
            headers = {"Authorization": f"token {self.token}", "Content-Type": kind}
            if key:
                headers["Idempotency-Key"] = key
            request = urllib.request.Request(self.url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
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


def disturb(server, kills, what, draw):
    """Kills at random, while others work."""
    uploads, runs, done = {}, [], threading.Event()

    def work():
        n = 0
        while not done.is_set():
            n += 1
            content = draw.randbytes(draw.randrange(1, 3 << 20))
            name = f"{what}-{n}"
            # One that got no answer may be there or not.
            if server.upload(name, content, again=False):
                uploads[name] = hashlib.sha256(content).hexdigest()
            if n % 4 == 1:
                run = f"{what}-run-{n}"
                server.submit(run)
                runs.append(run)
            time.sleep(draw.random() * 0.3)
    worker = threading.Thread(target=work)
    worker.start()
    killed = 0
    while killed < kills:
        time.sleep(draw.random() * 2.5)
        if what == "server":
            server.kill()
            killed += 1
        else:
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
                killed += 1
    done.set()
    worker.join()
    return uploads, runs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    subprocess.run(["cargo", "build", "--release", "--workspace", "--bins", "--examples"], check=True, cwd=ROOT)
    folder = tempfile.mkdtemp()
    server = Server(folder)
    try:
        server.call("POST", "/api/v1/experiments", b'{"name": "e"}')
        server.upload("train", documents())
        server.submit("undisturbed")
        finished = lambda run: server.json("GET", f"/api/v1/experiments/e/runs/{run}/status")
        while finished("undisturbed")["status"] not in ("FINISHED", "FAILED"):
            time.sleep(0.2)
        expected = server.losses("undisturbed")
        assert len(expected) == EPOCHS * PAIRS // 4, len(expected)
        uploads, runs = {}, []
        for what in ("server", "worker"):
            more = disturb(server, options.kills, what, draw)
            uploads |= more[0]
            runs += more[1]
            print(f"{options.kills} kills of the {what}: {len(more[0])} uploads and {len(more[1])} runs were answered")
        resumed = lost = 0
        for run in runs:
            while (status := finished(run))["status"] not in ("FINISHED", "FAILED"):
                time.sleep(0.2)
            assert status["status"] == "FINISHED", (run, status)
            log = server.call("GET", f"/api/v1/experiments/e/runs/{run}/logs").decode()
            assert log.count("Finished 🚀") == 1, log
            assert server.losses(run) == expected, f"{run} has other losses"
            lost += log.count("The worker was lost")
            resumed += log.count("Going on from a checkpoint")
        listed = [r["name"] for r in server.json("GET", "/api/v1/experiments/e/runs")]
        assert sorted(listed) == sorted(runs + ["undisturbed"]), "a run is there twice, or one is lost"
        for name, digest in uploads.items():
            url = server.json("GET", f"/v2/rpc/artifact.getDownloadUrl?name={name}")["data"]["download"]
            with urllib.request.urlopen(url) as answer:
                assert hashlib.sha256(answer.read()).hexdigest() == digest, name
        report = subprocess.run([TARGET / "finetuner-server", "check", "--data", f"{folder}/data"],
                                capture_output=True, text=True)
        assert report.returncode == 0, report.stderr
        print(f"{lost} workers were lost, {resumed} times a run went on from a checkpoint; "
              f"{len(runs)} runs ended once and with the same losses; {len(uploads)} uploads are whole")
    finally:
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
