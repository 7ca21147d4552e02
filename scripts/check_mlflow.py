#!/usr/bin/env python3
"""Trains a small model while a real MLflow server listens, and compares MLflow's data with the run's own files.

    python -m venv mlflow && mlflow/bin/pip install mlflow
    cargo build --release -p finetuner-server --example tracked_run
    mlflow/bin/python scripts/check_mlflow.py target/release/examples/tracked_run

The script runs the program twice: with the server up, and with nothing listening at its address. The second run must
also finish. Fails if parameters, metrics or the status differ.
"""
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(address):
    for _ in range(240):
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=2).read()
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"nothing answers at {address}")


def main():
    program = str(Path(sys.argv[1]).resolve())
    folder = Path(tempfile.mkdtemp())
    address = f"http://127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1],
         "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
         "--default-artifact-root", str(folder / "artifacts")],
        stdout=open(folder / "server.log", "w"), stderr=subprocess.STDOUT)
    try:
        wait_for(address)
        # The operator sets the address, so a run may use it.
        environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
        told = subprocess.run([program, address], env=environment, check=True, capture_output=True, text=True).stdout
        print(told)
        assert f"MLflow shows the run: {address}" in told, "the log does not name the run"

        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name("tracked")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED", run.info
        assert run.data.params["loss"] == "MultipleNegativeRankingLoss", run.data.params
        assert run.data.params["epochs"] == "2", run.data.params
        steps = client.get_metric_history(run.info.run_id, "step/loss")
        epochs = client.get_metric_history(run.info.run_id, "epoch/train_loss")
        printed = [line.split() for line in told.splitlines() if line.startswith("step ")]
        assert len(printed) == len(steps) > 0, (len(printed), len(steps))
        for (_, step, loss), metric in zip(printed, sorted(steps, key=lambda m: m.step)):
            assert int(step) == metric.step and abs(float(loss) - metric.value) < 1e-6, (step, loss, metric)
        assert len(epochs) == 2, epochs
        print(f"MLflow has {len(steps)} steps and {len(epochs)} epochs of the run, unchanged")
    finally:
        server.terminate()
        server.wait()
    nobody = {**os.environ, "MLFLOW_TRACKING_URI": address}
    told = subprocess.run([program, address], env=nobody, check=True, capture_output=True, text=True).stdout
    assert "MLflow can't be reached" in told, told
    print("A run finishes if the server does not answer, and its log says so")


if __name__ == "__main__":
    main()
