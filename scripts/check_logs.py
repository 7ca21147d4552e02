#!/usr/bin/env python3
"""Reads the logs that a run wrote into its artifact with the programs that they are meant for.

    pip install "tensorboard<2.19" "wandb==0.19.11" mlflow-skinny    # later versions of wandb can't read files from Python
    cargo run --release -p finetuner-engine --example quality -- fashion-glossary --seeds 1 --keep run.zip
    python scripts/check_logs.py run.zip

Fails if one of them can't read its part, or reads other values than the others.
"""
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb(folder):
    from wandb.proto import wandb_internal_pb2 as pb
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob("offline-run-*/run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    curves, kinds = {}, []
    while data := store.scan_data():
        record = pb.Record()
        record.ParseFromString(data)
        kinds.append(record.WhichOneof("record_type"))
        if kinds[-1] == "history":
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            for key, value in row.items():
                if not key.startswith("_"):
                    curves.setdefault(key, []).append((row["_step"], value))
        if kinds[-1] == "run":
            print("wandb: project", record.run.project, "run", record.run.display_name)
            assert record.run.display_name and record.run.start_time.seconds, record.run
    assert kinds[0] == "run" and kinds[-2:] == ["summary", "exit"], kinds
    return curves


def mlflow(folder):
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=folder.resolve().as_uri())
    curves = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            print("mlflow: experiment", experiment.name, "run", run.info.run_name, run.data.params)
            for key in run.data.metrics:
                history = client.get_metric_history(run.info.run_id, key)
                curves[key] = [(m.step, m.value) for m in history]
    return curves


def main():
    folder = Path(tempfile.mkdtemp())
    zipfile.ZipFile(sys.argv[1]).extractall(folder)
    (logs,) = folder.glob("*/logs")
    read = {"tensorboard": tensorboard(logs / "tensorboard"), "wandb": wandb(logs / "wandb"),
            "mlflow": mlflow(logs / "mlruns")}
    first = read["tensorboard"]
    assert first
    for name, curves in read.items():
        assert curves.keys() == first.keys(), (name, curves.keys() ^ first.keys())
        for key, points in curves.items():
            expected = sorted(first[key])
            assert len(points) == len(expected), (name, key)
            for (step, value), (s, v) in zip(sorted(points), expected):
                assert step == s and abs(value - v) <= 1e-5 * max(1, abs(v)), (name, key)
        print(f"{name}: {len(curves)} curves, {sum(map(len, curves.values()))} points")


main()
