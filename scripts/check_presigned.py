"""Fetches a run's data from S3 with a presigned URL, with a real server, a real worker and
a simulated S3; and through the server if S3 refuses the URL.

    cargo build -p finetuner-server
    python scripts/check_presigned.py [--binary target/debug/finetuner-server]
"""

import argparse
import tempfile
import time
from pathlib import Path

from kill_server import ROOT, Server, documents
from s3_stand_in import StandIn


def finished(server, run):
    server.submit(run)
    while not server.has_ended(run):
        time.sleep(0.1)
    path = f"/api/v1/experiments/e/runs/{run}"
    status = server.json("GET", f"{path}/status")
    assert status["status"] == "FINISHED", status
    return server.call("GET", f"{path}/logs").decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/finetuner-server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, StandIn() as s3:
        arguments = ["--store", "s3://bucket/folder", "--presigned"]
        server = Server(folder, options.binary, arguments, s3.environment)
        try:
            server.call("POST", "/api/v1/experiments", b'{"name": "e"}')
            server.upload("train", documents())

            log = finished(server, "direct")
            assert "through the server" not in log, log
            (key, headers), = s3.presigned
            assert key.startswith("folder/objects/") and key in s3.objects, key
            assert "Authorization" not in headers, headers
            print("fetched from S3:", key)

            s3.presigned.clear()
            s3.refuse_presigned = True
            log = finished(server, "refused")
            assert len(s3.presigned) == 1
            line, = [line for line in log.splitlines() if "through the server" in line]
            assert "403" in line and "Signature" not in line, line
            print("fetched through the server:", line)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
