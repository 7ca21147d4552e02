"""Measures the server under load while nothing trains: requests per second and
their latency, with 100 runs and with 100,000; points of curves that workers
write; 1,000 followers of one log; memory and startup time.

    apt-get install wrk
    python scripts/bench_server.py [--seconds 5] [--runs 100000]

Client and server run on the same machine. The script inserts the runs into the
database between two starts of the server, because submitting 100,000 runs takes
too long.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import re
import resource
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
WORKER = "ft_worker"
FOLLOWERS = 1000


class Server:
    def __init__(self, data, token=None):
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [TARGET / "finetuner-server", "serve", "--address", "127.0.0.1:0", "--data", data,
             "--lease", "100000"], stdout=subprocess.PIPE, text=True)
        self.token = token
        for line in self.process.stdout:
            if "is ready at" in line:
                self.start = time.perf_counter() - started
                self.url = line.split()[-1]
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                break
        self.host = self.url.split("//")[1]

    def memory(self, what="VmRSS"):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", text)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


def fill(data, runs):
    """Inserts an experiment `e` with this number of finished runs."""
    db = sqlite3.connect(Path(data) / "finetuner.sqlite")
    user = db.execute("SELECT id FROM users").fetchone()[0]
    db.execute("INSERT INTO experiments (id, project_id, name, description, created_at) "
               "VALUES (1, ?, 'e', '', '2026-01-01T00:00:00.000Z')", [user])
    config = json.dumps({"model": {"name": "clip-small"}, "data": {"train_data": "t"}})
    db.executemany(
        "INSERT INTO runs (id, experiment_id, name, description, config, device, task, status, details, "
        "created_at, artifact_id) VALUES (?, 1, ?, '', ?, 'cpu', 'training', 'FINISHED', 'Run finished', "
        "'2026-01-01T00:00:00.000Z', ?)",
        ((n, f"run-{n}", config, f"{n:024x}") for n in range(1, runs + 1)))
    db.commit()
    db.close()


def give_to_worker(data, run):
    """Assigns a run to a worker while the server is running. At startup, the server takes runs away from workers
    that it does not know."""
    db = sqlite3.connect(Path(data) / "finetuner.sqlite", timeout=10)
    db.execute("UPDATE runs SET status = 'STARTED', job = 'bench', worker_token = ?, attempts = 1, launches = 1"
               " WHERE id = ?",
               [hashlib.sha256(WORKER.encode()).digest(), run])
    db.commit()
    db.close()


def wrk(server, path, seconds, method="GET", connections=16):
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "{method}"\n')
        script.flush()
        output = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name,
             "-H", f"Authorization: token {server.token}", server.url + path],
            capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in output and "Socket errors" not in output, output
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    unit = {"us": 1e-3, "ms": 1, "s": 1e3}
    def part(which):
        number, of = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", output).groups()
        return float(number) * unit[of]
    return rate, part(50), part(99)


def write_points(server, seconds):
    """Simulates one worker that reports as fast as the server answers."""
    connection = http.client.HTTPConnection(server.host)
    sent, times, began = 0, [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        events = [{"kind": "step", "epoch": 1, "epochs": 1, "step": sent + i + 1, "steps": 10**9,
                   "loss": 1.0, "mean_loss": 1.0, "learning_rate": 1e-5} for i in range(256)]
        body = json.dumps({"first": sent, "events": events})
        asked = time.perf_counter()
        connection.request("POST", "/api/v1/worker/events", body, {
            "Authorization": f"token {WORKER}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append((time.perf_counter() - asked) * 1e3)
        sent += len(events)
    return sent / (time.perf_counter() - began), statistics.median(times), max(times), sent


async def follow(server, runs, first):
    """Opens the log for many followers and has a line written. Measures until all of them have it."""
    path = f"/api/v1/experiments/e/runs/run-{runs}/logstream"
    head = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: token {server.token}\r\n\r\n"
    address, port = server.host.split(":")
    streams = []
    for _ in range(FOLLOWERS):
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(head.encode())
        streams.append((reader, writer))
    for reader, _ in streams:
        await reader.readuntil(b"\r\n\r\n")
    memory = server.memory()
    connection = http.client.HTTPConnection(server.host)
    line = {"kind": "log", "level": "INFO", "message": "the line"}
    began = time.perf_counter()
    connection.request("POST", "/api/v1/worker/events", json.dumps({"first": first, "events": [line]}), {
        "Authorization": f"token {WORKER}", "Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    await asyncio.gather(*(reader.readuntil(b"the line") for reader, _ in streams))
    took = time.perf_counter() - began
    for _, writer in streams:
        writer.close()
    return took, memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100_000)
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 8192), limit))
    subprocess.run(["cargo", "build", "--release", "--workspace", "--bins", "--examples"], check=True, cwd=ROOT)
    for runs in (100, options.runs):
        with tempfile.TemporaryDirectory() as folder:
            data = f"{folder}/data"
            first = Server(data)
            first.stop()
            fill(data, runs)
            server = Server(data, first.token)
            try:
                print(f"\n{runs} runs; started in {server.start:.2f} s, {server.memory():.0f} MB")
                last = (runs - 1) // 50 + 1
                cases = [
                    ("whoami", "/v2/rpc/user.identity.whoami", "POST"),
                    ("status", f"/api/v1/experiments/e/runs/run-{runs // 2}/status", "GET"),
                    ("first page", "/api/v1/experiments/e/runs?page=1&size=50", "GET"),
                    ("last page", f"/api/v1/experiments/e/runs?page={last}&size=50", "GET"),
                ]
                for name, path, method in cases:
                    rate, p50, p99 = wrk(server, path, options.seconds, method)
                    print(f"  {name:<11} {rate:8.0f} a second   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
                give_to_worker(data, runs)
                rate, p50, worst, sent = write_points(server, options.seconds)
                print(f"  points      {rate:8.0f} per second   p50 {p50:6.2f} ms   max {worst:6.2f} ms per batch of 256")
                took, memory = asyncio.run(follow(server, runs, sent))
                print(f"  {FOLLOWERS} followers have a line after {took * 1e3:.0f} ms; {memory:.0f} MB")
                print(f"  peak memory {server.memory('VmHWM'):.0f} MB")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
