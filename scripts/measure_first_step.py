#!/usr/bin/env python3
"""Measures a run over many documents of two labels, until its first step: seconds, and the peak memory of server and worker.

    cargo build --release -p finetuner-server --bins --examples
    python scripts/measure_first_step.py [COUNT] [BATCH]
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parent.parent / "target")) / "release"


def peak(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split() + [
        child for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)
        for child in (task / "children").read_text().split()]


def main():
    count, batch = (sys.argv + ["1000000"])[1], sys.argv[2:]
    data = tempfile.mkdtemp()
    log = open(Path(data) / "server.log", "w+")
    server = subprocess.Popen([BIN / "finetuner-server", "serve", "--address", "127.0.0.1:0", "--data", f"{data}/data"],
                              stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        text = ""
        while "export JINA_AUTH_TOKEN" not in text:
            line = server.stdout.readline()
            if not line:
                raise SystemExit(f"the server ended: {text}{Path(log.name).read_text()}")
            text += line
        environment = {**os.environ, **dict(re.findall(r"export (\w+)=(\S+)", text))}
        client = subprocess.Popen([BIN / "examples" / "first_step", count, *batch], env=environment, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for line in client.stdout:
            print(line, end="", flush=True)
            if line.startswith("training"):
                break
        print("server", peak(server.pid), "MB")
        for child in children(server.pid):
            print("worker", peak(child), "MB")
        client.stdin.write("\n")
        client.stdin.flush()
        print(client.stdout.read())
        client.wait()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
