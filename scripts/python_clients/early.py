"""The code blocks of the text-to-image guide of finetuner-client 0.2.2, and the
other functions of that version."""

import os
import sys
import tempfile
import time
from pathlib import Path

import finetuner
import hubble
from docarray import Document, DocumentArray
from finetuner.callback import BestModelCheckpoint, EvaluationCallback, MLFlowLogger, WandBLogger

from rows import FASHION, refused, row, run_all

GUIDE = "3_3_text_to_image"
CLIP = dict(model="openai/clip-vit-base-patch32", loss="CLIPLoss", image_modality="image", text_modality="text",
            multi_modal=True, cpu=True)


def pairs(count=24):
    rows = [line.split(",", 1) for line in (FASHION / "fashion/train.csv").read_text().splitlines()]
    return DocumentArray(
        Document(chunks=[Document(blob=(FASHION / picture).read_bytes(), modality="image"),
                         Document(text=title, modality="text")])
        for picture, title in rows[:count])


def wait(run):
    for _ in range(600):
        status = run.status()
        if status["status"] == "FINISHED":
            return run
        assert status["status"] != "FAILED", f"{status['details']}\n{run.logs()[-1500:]}"
        time.sleep(0.2)
    raise AssertionError("it never ended")


@row(GUIDE, "finetuner.login() through the browser", always=True)
def _():
    finetuner.login()


@row(GUIDE, "push, and DocumentArray.pull('clip-fashion-train-data')", always=True)
def _():
    for name in ("clip-fashion-train-data", "clip-fashion-eval-data"):
        pairs().push(name, public=False)
    data = DocumentArray.pull("clip-fashion-train-data")
    assert len(data) == 24 and data[0].chunks[1].text


@row(GUIDE, "describe_models(), list_models(), list_model_options(), list_callbacks()")
def _():
    finetuner.describe_models()
    assert CLIP["model"] in finetuner.list_models() and CLIP["model"] in finetuner.list_model_options()
    assert "BestModelCheckpoint" in finetuner.list_callbacks()


@row(GUIDE, "fit(...) with names, callbacks and modalities; run.status()")
def _():
    run = finetuner.fit(
        run_name="clip-fashion-1", train_data="clip-fashion-train-data", eval_data="clip-fashion-eval-data", epochs=2,
        learning_rate=1e-3, callbacks=[BestModelCheckpoint(), EvaluationCallback(query_data="clip-fashion-eval-data")],
        **CLIP)
    assert run.status()["status"] in ("CREATED", "STARTED")
    wait(run)


@row(GUIDE, "get_run('clip-fashion-1'), run.logs()")
def _():
    run = finetuner.get_run("clip-fashion-1")
    assert run.status()["status"] == "FINISHED"
    logs = run.logs()
    assert "Training [2/2]" in logs and "val_loss" in logs and "average_precision" in logs


@row(GUIDE, "run.save_model('clip-model')")
def _():
    with tempfile.TemporaryDirectory() as folder:
        saved = finetuner.get_run("clip-fashion-1").save_model(str(Path(folder) / "clip-model"))
        paths = saved if isinstance(saved, list) else [saved]
        assert paths and all(Path(path).stat().st_size > 1 << 20 for path in paths)


@row("0.2.2", "fit with a DocumentArray")
def _():
    wait(finetuner.fit(run_name="documents", train_data=pairs(), epochs=1, **CLIP))


@row("0.2.2", "WandBLogger and MLFlowLogger write files to the artifact, and the log names them")
def _():
    loggers = [WandBLogger("e", api_key="k"), MLFlowLogger("e", "http://localhost:1")]
    run = wait(finetuner.fit(run_name="loggers", train_data="clip-fashion-train-data", epochs=1, callbacks=loggers,
                             **CLIP))
    assert "wandb sync" in run.logs() and "mlflow ui" in run.logs(), run.logs()


@row("0.2.2", "a missing experiment; create_experiment; list_experiments")
def _():
    refused(lambda: finetuner.fit(train_data="clip-fashion-train-data", experiment_name="another", **CLIP), "404")
    finetuner.create_experiment("another")
    assert "another" in [e.name for e in finetuner.list_experiments()]
    assert finetuner.list_runs("another") == []


@row("0.2.2", "list_runs(), delete_run(), delete_experiments()")
def _():
    assert sorted(run.name for run in finetuner.list_runs()) == ["clip-fashion-1", "documents", "loggers"]
    finetuner.delete_run("documents")
    assert "documents" not in [run.name for run in finetuner.list_runs()]
    finetuner.delete_experiments()
    assert finetuner.list_experiments() == []


@row("hubble 0.5.1", "every endpoint of the SDK")
def _():
    client = hubble.Client(jsonify=True)
    made = client.create_personal_access_token(name="pat", expiration_days=7)["data"]["token"]
    assert hubble.Client(token=made, jsonify=True).get_user_info()["data"]["name"]
    assert "pat" in [t["name"] for t in client.list_personal_access_tokens()["data"]["personal_access_tokens"]]
    client.delete_personal_access_token(name="pat")
    Path("a").write_bytes(b"bytes")
    kept = client.upload_artifact(f="a", metadata={"x": 1})["data"]["_id"]
    assert Path(client.download_artifact(id=kept, path="b")).read_bytes() == b"bytes"
    assert client.get_artifact_info(id=kept)["data"]["_id"] == kept
    assert client.list_artifacts()["data"] and client.list_artifacts(filter={"type": "x"}, sort={"createdAt": 1})
    client.delete_artifact(id=kept)


@row("hubble 0.5.1", "hubble.logout(), then login() in the same process")
def _():
    hubble.logout()
    hubble.logout()
    finetuner.login()
    assert finetuner.list_experiments()


if __name__ == "__main__":
    sys.exit(run_all(os.environ.get("CHECK_ONLY")) > 0)
