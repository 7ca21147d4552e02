"""Compares this client with the last Python client, against the same server. The clients
alternate. Prints the seconds of the calls, and the CPU seconds and peak memory of the process.

    pip install --no-deps "finetuner==0.8.1" "finetuner-stubs==0.13.10"
    pip install "docarray==0.21.0" "jina-hubble-sdk==0.33.1" "pydantic<2" rich numpy
    python scripts/bench_client.py [--rounds 3]

A run whose worker is stopped blocks the queue of the server, so that nothing trains during
the measurements.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# Marks an image.
HEAD = b"\x89PNG\r\n\x1a\n"
# Call, number of repetitions or documents, bytes of each document.
CASES = [
    ("fit", 20, 0), ("status", 200, 0),
    ("push", 20_000, 4096), ("pull", 20_000, 4096), ("stream", 20_000, 4096),
    ("push", 200, 4 << 20), ("pull", 200, 4 << 20), ("stream", 200, 4 << 20),
]
# Time limit of one measurement. The Python client needs minutes to pull large documents.
LIMIT = 100


def python_client(call, count, size, noise):
    import requests

    sent = 0
    original = requests.Session.send

    def counted(self, *args, **kwargs):
        nonlocal sent
        sent += 1
        return original(self, *args, **kwargs)

    requests.Session.send = counted
    import finetuner
    from docarray import Document, DocumentArray

    finetuner.login()
    if call == "push":
        noise = Path(noise).read_bytes()
        step = len(noise) - size
        documents = DocumentArray(
            Document(blob=HEAD + noise[n * 4099 % step:n * 4099 % step + size]) for n in range(count))
        run = lambda: documents.push("speed", public=False)
    elif call == "pull":
        run = lambda: DocumentArray.pull("speed", local_cache=False)
    elif call == "fit":
        def run():
            for _ in range(count):
                finetuner.fit(model="clip-base-en", train_data="tiny", loss="CLIPLoss", epochs=1)
    else:
        first = finetuner.get_run("first")
        run = lambda: [first.status() for _ in range(count)]
    sent = 0
    started = time.perf_counter()
    run()
    print(time.perf_counter() - started)
    print(f"{sent} requests", file=sys.stderr)


def measure(command, environment):
    reading, writing = os.pipe()
    child = subprocess.Popen(["timeout", str(LIMIT), *command], stdout=writing,
                             stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    output = os.fdopen(reading).read()
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) == 124:
        return LIMIT, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, ["cut off"]
    if status:
        sys.exit(f"{command}: {errors[-2000:]}")
    seconds = float(output.split()[-1])
    requests = [line for line in errors.splitlines() if line.endswith(" requests")]
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, requests


def prepare(environment):
    """Pushes a tiny data set, and starts a run that blocks the queue."""
    subprocess.run([TARGET / "examples/client_speed", "hold", "0", "0", "-"], env=environment,
                   check=True, capture_output=True)
    while True:
        worker = subprocess.run(["pgrep", "-f", "finetuner-server worker"], capture_output=True)
        if worker.returncode == 0:
            pid = int(worker.stdout.split()[0])
            os.kill(pid, signal.SIGSTOP)
            return pid
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.python:
        call, count, size, noise = args.python
        return python_client(call, int(count), int(size), noise)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "finetuner-server",
                    "--example", "client_speed", "--bin", "finetuner-server"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        noise = Path(folder, "noise")
        # Incompressible, like images.
        noise.write_bytes(os.urandom(16 << 20))
        server = subprocess.Popen(
            [TARGET / "finetuner-server", "serve", "--address", "127.0.0.1:8657",
             "--data", Path(folder, "data"), "--lease", "100000"], stdout=subprocess.PIPE, text=True)
        environment = dict(os.environ, HOME=folder, JINA_HUB_ROOT=folder)
        for line in server.stdout:
            if "=" in line and "export" in line:
                name, value = line.split("export ", 1)[1].strip().split("=", 1)
                environment[name] = value
            if "JINA_AUTH_TOKEN" in environment:
                break
        environment["JINA_HUBBLE_REGISTRY"] = environment["JINA_FINETUNER_REGISTRY"]
        worker = prepare(environment)
        try:
            print(f"{'':32} {'seconds':>9} {'CPU s':>7} {'peak MB':>8}   times faster")
            for call, count, size in CASES:
                clients = {
                    "Rust": [TARGET / "examples/client_speed", call, str(count), str(size), noise],
                    "Python": [sys.executable, __file__, "--python", call, str(count), str(size), noise],
                }
                if call == "stream":
                    del clients["Python"]
                results = {client: [] for client in clients}
                for _ in range(args.rounds):
                    for client, command in clients.items():
                        # Slow measurements run only once.
                        if results[client] and results[client][0][3] == ["cut off"]:
                            continue
                        results[client].append(measure(command, environment))
                middle = {client: [statistics.median(r[i] for r in all_) for i in range(3)]
                          for client, all_ in results.items()}
                for client, (seconds, cpu, memory) in middle.items():
                    ratio = middle["Python"][0] / seconds if "Python" in middle else 0
                    title = f"{call} {count} x {size} {client}"
                    requests = results[client][0][3]
                    print(f"{title:32} {seconds:9.3f} {cpu:7.2f} {memory:8.0f}   {ratio:6.1f} "
                          f"{requests[0] if requests else ''}", flush=True)
        finally:
            os.kill(worker, signal.SIGCONT)
            server.terminate()
            server.wait()


main()
