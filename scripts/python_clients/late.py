"""The code blocks of the documentation of finetuner 0.8.1 (docs/ of its repository
at v0.8.1), on small data. Page names are paths below docs/."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import finetuner
import hubble
import numpy as np
from finetuner import Document, DocumentArray
from finetuner.callback import (BestModelCheckpoint, EarlyStopping, EvaluationCallback, TrainingCheckpoint,
                                WandBLogger, WiSEFTCallback)
from finetuner.data import CSVOptions

from rows import FASHION, refused, row, run_all

URL = os.environ["JINA_FINETUNER_REGISTRY"]
HUB = Path(os.environ["CHECK_HUB"])
CONFIG = Path(os.environ["JINA_HUB_ROOT"]) / "config.json"
# Common to all runs. The documentation uses the device 'cuda'.
SMALL = dict(epochs=1, batch_size=8, device="cpu")

TITLES = [line.split(",", 1) for line in (FASHION / "fashion/train.csv").read_text().splitlines()][:32]
TEXTS = [("Hello!", "greet"), ("Hi there.", "greet"), ("Good morning.", "greet"), ("Good day.", "greet"),
         ("I'm sorry!", "sorry"), ("Please forgive me!", "sorry"), ("My mistake.", "sorry"), ("I regret it.", "sorry"),
         ("Bye.", "leave"), ("See you.", "leave"), ("So long.", "leave"), ("Good night.", "leave")]


def blob(picture):
    return (FASHION / picture).read_bytes()


def pairs(count=16):
    return DocumentArray(
        Document(chunks=[Document(content=title, modality="text"), Document(blob=blob(picture), modality="image")])
        for picture, title in TITLES[:count])


def pictures(count=32):
    return DocumentArray(Document(blob=blob(p), tags={"finetuner_label": t}) for p, t in TITLES[:count])


def texts():
    return DocumentArray(Document(content=t, tags={"finetuner_label": label}) for t, label in TEXTS)


def wait(run):
    for _ in range(600):
        status = run.status()
        if status["status"] == "FINISHED":
            return run
        assert status["status"] != "FAILED", f"{status['details']}\n{run.logs()[-1500:]}"
        time.sleep(0.2)
    raise AssertionError("it never ended")


def fit(**options):
    return wait(finetuner.fit(**{**SMALL, **options}))


def csv(text, name="data.csv"):
    Path(name).write_text(text)
    return name


# -- walkthrough/login ------------------------------------------------------

LOGIN = "walkthrough/login"


@row(LOGIN, "finetuner.login() through the browser", always=True)
def _():
    assert "JINA_AUTH_TOKEN" not in os.environ
    finetuner.login()
    assert hubble.is_logged_in()


@row(LOGIN, "get_token()")
def _():
    assert finetuner.get_token().startswith("ft_")


@row(LOGIN, "login() again uses the stored token; login(force=True) gets another")
def _():
    first = finetuner.get_token()
    finetuner.login()
    assert finetuner.get_token() == first
    finetuner.login(force=True)
    assert finetuner.get_token() != first


@row(LOGIN, "hubble.logout(), then login() in the same process")
def _():
    hubble.logout()
    assert not hubble.is_logged_in() and "auth_token" not in CONFIG.read_text()
    hubble.logout()
    finetuner.login()
    assert [e.name for e in finetuner.list_experiments()] == ["default"]


@row("jina auth (jina-hubble-sdk 0.33.1)", "login, token create/list/delete, logout")
def _():
    def jina(*words):
        program = Path(sys.executable).parent / "jina-auth"
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout
    assert "already logged in" in jina("login")
    assert "Successfully logged in" in jina("login", "-f")
    assert "New token created" in jina("token", "create", "nightly", "-e", "30")
    assert "nightly" in jina("token", "list")
    assert "Successfully" in jina("token", "delete", "nightly")
    assert "logged out" in jina("logout")
    assert "Successfully logged in" in jina("login")
    finetuner.login()


@row("hubble.Client (jina-hubble-sdk 0.33.1)", "every endpoint of the SDK")
def _():
    client = hubble.Client(jsonify=True)
    assert client.username and client.token
    assert client.get_user_info()["data"]["_id"] == client.get_raw_session()["data"]["user"]["_id"]
    assert client.list_internal_docker_registries()["data"] == []
    made = client.create_personal_access_token(name="pat", expiration_days=7)["data"]["token"]
    assert hubble.Client(token=made, jsonify=True).username == client.username
    assert "pat" in [t["name"] for t in client.list_personal_access_tokens()["data"]["personal_access_tokens"]]
    client.delete_personal_access_token(name="pat")
    kept = client.upload_artifact(f=io.BytesIO(b"bytes"), name="a", metadata={"x": 1})["data"]["_id"]
    client.upload_artifact(f=io.BytesIO(b"other"), id=kept, is_public=True)
    assert client.download_artifact(id=kept, f=io.BytesIO()).getvalue() == b"other"
    client.update_artifact(id=kept, name="b", metadata={"y": 2}, is_public=False)
    info = client.get_artifact_info(name="b")["data"]
    assert info["metaData"] == {"y": 2} and info["visibility"] == "private", info
    assert [a["name"] for a in client.list_artifacts()["data"]] == ["b"]
    assert client.list_artifacts(filter={"name": "b"}, sort={"name": 1}, pageIndex=1, pageSize=5)["meta"]["total"] == 1
    client.delete_multiple_artifacts(ids=[kept], names=["none"])
    refused(lambda: client.delete_artifact(name="b"), "no artifact `b`")


# -- The models' own checkpoints, without the network -----------------------

@row("get-started", "models in the hub's cache, created by runs of the small models", always=True)
def _():
    def into_cache(folder, *names):
        for name in names:
            place = HUB / "hub" / f"models--{name.replace('/', '--')}"
            (place / "refs").mkdir(parents=True)
            (place / "refs/main").write_text("local")
            shutil.copytree(folder, place / "snapshots/local")
    experiment = finetuner.ft._default_experiment
    made = {"minilm-small": texts(), "efficientnet-small": pictures(), "clip-small": pairs(),
            "two-towers-small": pairs()}
    names = {
        "minilm-small": ["google-bert/bert-base-cased", "sentence-transformers/msmarco-distilbert-base-v3"],
        "efficientnet-small": ["microsoft/resnet-50", "google/efficientnet-b0", "google/efficientnet-b4"],
        "clip-small": ["openai/clip-vit-base-patch32"],
        "two-towers-small": ["openai/clip-vit-large-patch14"],
    }
    of_pairs = ["clip-small", "two-towers-small"]
    for small, data in made.items():
        data.push(small, public=False)
        config = {"model": {"name": small}, "data": {"train_data": small},
                  "hyper_parameters": {"loss": "CLIPLoss" if small in of_pairs else "TripletMarginLoss",
                                       "epochs": 1, "batch_size": 8, "learning_rate": 1e-7}}
        finetuner.ft._client.create_run("default", small, config, "training", "cpu", 1, 1)
        run = wait(experiment.get_run(small))
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(run.save_artifact(folder)).extractall(folder)
            into_cache(Path(folder) / small, *names[small])
    scored = DocumentArray(Document(chunks=[Document(content=a), Document(content=b)],
                                    tags={"finetuner_score": float(x == y)})
                           for a, x in TEXTS for b, y in TEXTS)
    scored.push("scored", public=False)
    config = {"model": {"name": "minilm-small"}, "data": {"train_data": "scored"},
              "hyper_parameters": {"loss": "BinaryCrossEntropyLoss", "epochs": 1, "batch_size": 16}}
    finetuner.ft._client.create_run("default", "cross-encoder", config, "training", "cpu", 1, 1)
    run = wait(experiment.get_run("cross-encoder"))
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(run.save_artifact(folder)).extractall(folder)
        into_cache(Path(folder) / "cross-encoder", "cross-encoder/ms-marco-MiniLM-L-6-v2")
    finetuner.delete_runs()


# -- walkthrough/create-training-data ---------------------------------------

DATA = "walkthrough/create-training-data"


@row(DATA, "CSV, labelled texts (is_labeled=True)")
def _():
    text = "".join(f'"{t}",{label}\n' for t, label in TEXTS)
    fit(model="bert-base-en", train_data=csv(text), csv_options=CSVOptions(is_labeled=True))


@row(DATA, "CSV, labelled images by path")
def _():
    text = "".join(f"{FASHION / p},{t}\n" for p, t in TITLES)
    fit(model="resnet-base", train_data=csv(text), csv_options=CSVOptions(is_labeled=True))


@row(DATA, "CSV, query-document relations")
def _():
    text = "Rice dishes,Chicken curry\nRice dishes,Risotto\nPasta dishes,Spaghetti\nVegetables,Ratatouille\n"
    fit(model="bert-base-en", train_data=csv(text))


@row(DATA, "CSV, text-to-image in both orders")
def _():
    for order in (lambda p, t: f"{t},{p}\n", lambda p, t: f"{p},{t}\n"):
        text = "".join(order(FASHION / p, t) for p, t in TITLES)
        fit(model="clip-base-en", train_data=csv(text), loss="CLIPLoss")


@row(DATA, "CSV, similarity scores; dialect excel-tab")
def _():
    text = "".join(f"The weather is {a}\tThe weather is {b}\t{score}\n"
                   for a, b, score in [("nice", "beautiful", 0.9), ("nice", "bad", 0), ("bad", "awful", 0.8)])
    fit(model="bert-base-en", train_data=csv(text), loss="CosineSimilarityLoss",
        csv_options=CSVOptions(dialect="excel-tab"))


@row(DATA, "DocumentArray, text-to-text")
def _():
    fit(model="bert-base-en", train_data=texts())


@row(DATA, "DocumentArray, similarity scores")
def _():
    one = lambda a, b, score: Document(chunks=[Document(content=a), Document(content=b)],
                                       tags={"finetuner_score": score})
    data = DocumentArray([one("the weather is nice", "the weather is beautiful", 0.9),
                          one("the weather is nice", "the weather is bad", 0.0)])
    fit(model="bert-base-en", train_data=data, loss="CosineSimilarityLoss")


@row(DATA, "DocumentArray, image-to-image, convert_uri_to_blob")
def _():
    data = DocumentArray(Document(uri=str(FASHION / p), tags={"finetuner_label": t}) for p, t in TITLES)
    for doc in data:
        doc.load_uri_to_blob()
    fit(model="resnet-base", train_data=data)


@row(DATA, "DocumentArray, text-to-image on CLIP")
def _():
    fit(model="clip-base-en", train_data=pairs(), loss="CLIPLoss")


@row(DATA, "push('name', public=True), pull('name'), summary()")
def _():
    pairs(3).push("my_train_da", public=True)
    data = DocumentArray.pull("my_train_da", local_cache=False)
    assert len(data) == 3 and data[0].chunks[0].text == TITLES[0][1]
    data.summary()


@row(DATA, "pull('user/name') of another user")
def _():
    script = ("from docarray import Document, DocumentArray as D\n"
              "D([Document(text='a'), Document(text='b')]).push('shared', public=True)\n"
              "D([Document(text='c')]).push('private', public=False)\n")
    environment = {**os.environ, "JINA_AUTH_TOKEN": os.environ["OTHER_TOKEN"]}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    assert DocumentArray.pull("anna/shared", local_cache=False).texts == ["a", "b"]
    return refused(lambda: DocumentArray.pull("anna/private", local_cache=False), "404")


@row("docarray 0.21", "cloud_list() of more than a page, newest first; cloud_delete()")
def _():
    before = DocumentArray.cloud_list()
    names = [f"many-{n:02}" for n in range(60)]
    for name in names:
        DocumentArray([Document(text=name)]).push(name, public=False)
    assert DocumentArray.cloud_list(show_table=True) == names[::-1] + before
    for name in names:
        DocumentArray.cloud_delete(name)
    assert DocumentArray.cloud_list() == before


# -- walkthrough/choose-backbone --------------------------------------------

@row("walkthrough/choose-backbone", "describe_models(task=...), list_models(), list_model_options(), list_callbacks()")
def _():
    for task in ("text-to-text", "image-to-image", "text-to-image", "mesh-to-mesh"):
        finetuner.describe_models(task=task)
    assert "clip-base-en" in finetuner.list_models() and "bert-base-en" in finetuner.list_model_options()
    assert "EvaluationCallback" in finetuner.list_callbacks()


# -- walkthrough/basic-concepts, walkthrough/run-job ------------------------

# The page uses `efficientnet_b0`, which this version of the client no longer knows.
JOB = "walkthrough/run-job"


@row("walkthrough/basic-concepts", "experiment_name of a missing experiment")
def _():
    # run-job first creates it with `create_experiment`.
    return refused(lambda: finetuner.fit("bert-base-en", texts(), experiment_name="quora-qa-finetune"),
                   "quora-qa-finetune", "create_experiment")


@row(JOB, "fit(model, train_data='some.csv'); print(run.name, run.status())")
def _():
    text = "".join(f"{FASHION / p},{t}\n" for p, t in TITLES)
    run = finetuner.fit(model="efficientnet-base", train_data=csv(text), epochs=1, batch_size=8,
                        csv_options=CSVOptions(is_labeled=True), device="cpu")
    assert "-" in run.name and run.status()["status"] in ("CREATED", "STARTED")
    wait(run)


@row(JOB, "continue training: model_artifact=run.artifact_id")
def _():
    run = fit(model="efficientnet-base", train_data=pictures())
    fit(model="efficientnet-base", train_data=pictures(), model_artifact=run.artifact_id)


@row(JOB, "advanced configuration: every argument")
def _():
    finetuner.create_experiment(name="finetune-flickr-dataset")
    text = csv("".join(f"{FASHION / p},{t}\n" for p, t in TITLES), "train.csv")
    run = fit(
        model="efficientnet-base", train_data=text, eval_data=text,
        run_name="finetune-flickr-dataset-efficientnet-1",
        description="this is a trial run on flickr8k dataset with efficientnet b0.",
        experiment_name="finetune-flickr-dataset", model_options={}, loss="TripletMarginLoss",
        miner="TripletMarginMiner", miner_options={"margin": 0.2}, scheduler="linear", scheduler_options={},
        optimizer="Adam", optimizer_options={"weight_decay": 0.01}, learning_rate=1e-4, epochs=2, batch_size=16,
        freeze=False, output_dim=512, num_workers=4, to_onnx=False, csv_options=CSVOptions(is_labeled=True),
        public=False, num_items_per_class=4)
    assert run.config["hyper_parameters"]["miner"] == "TripletMarginMiner"


@row(JOB, "layer-wise learning rate decay")
def _():
    fit(model="bert-base-en", train_data=texts(), optimizer="Adam", optimizer_options={"layer_wise_lr_decay": 0.98})


@row(JOB, "scheduler_options={'scheduler_step': 'epoch'}")
def _():
    fit(model="bert-base-en", train_data=texts(), scheduler="cosine", scheduler_options={"scheduler_step": "epoch"})


@row(JOB, "an error for missing data")
def _():
    return refused(lambda: finetuner.fit("bert-base-en", "none"), "train_data", "none")


# -- walkthrough/save-model -------------------------------------------------

SAVE = "walkthrough/save-model"


@row(SAVE, "get_run(run_name, experiment_name), run.status(), run.artifact_id")
def _():
    run = finetuner.get_run(run_name="finetune-flickr-dataset-efficientnet-1",
                            experiment_name="finetune-flickr-dataset")
    assert run.status()["status"] == "FINISHED" and len(run.artifact_id) == 24


@row(SAVE, "run.stream_logs(), run.logs()")
def _():
    run = finetuner.fit("bert-base-en", texts(), **SMALL)
    lines = list(run.stream_logs(interval=1))
    assert any("Finished" in line for line in lines), lines
    assert "Training [1/1]" in run.logs()


@row(SAVE, "run.save_artifact('tuned_model')")
def _():
    run = finetuner.get_run("finetune-flickr-dataset-efficientnet-1", "finetune-flickr-dataset")
    saved = Path(run.save_artifact("tuned_model"))
    with zipfile.ZipFile(saved) as artifact:
        names = [name.split("/", 1)[1] for name in artifact.namelist()]
    assert {"config.yml", "metadata.yml", "metrics.yml", "models/input-map.yml", "model.safetensors"} <= set(names)
    return f"{saved}, {saved.stat().st_size} bytes"


@row(SAVE, "public=True: another user downloads the artifact and continues from it")
def _():
    texts().push("open-data", public=True)
    run = fit(model="bert-base-en", train_data="open-data", public=True)
    owner = hubble.Client(jsonify=True).get_user_info()["data"]["name"]
    script = f"""
import finetuner, hubble, io, time
finetuner.login()
assert hubble.Client(jsonify=True).download_artifact(id={run.artifact_id!r}, f=io.BytesIO()).getvalue()[:2] == b"PK"
run = finetuner.fit("bert-base-en", "{owner}/open-data", model_artifact={run.artifact_id!r}, epochs=1, batch_size=8,
                    device="cpu")
while run.status()["status"] not in ("FINISHED", "FAILED"):
    time.sleep(0.2)
assert run.status()["status"] == "FINISHED", run.status()
"""
    environment = {**os.environ, "JINA_AUTH_TOKEN": os.environ["OTHER_TOKEN"]}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1500:]


# -- walkthrough/inference --------------------------------------------------

INFERENCE = "walkthrough/using-python"
# The packages of `finetuner[full]`. Its commons package pins versions of torch
# and transformers that a current Python can't install.
FULL = all(importlib.util.find_spec(name) for name in ("torch", "onnxruntime", "transformers", "open_clip"))


def ours(artifact, **items):
    """Embeds texts and images with the engine itself."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(artifact).extractall(folder)
        (model,) = Path(folder).iterdir()
        out = Path(folder) / "out.safetensors"
        arguments = [word for kind, values in items.items() for value in values for word in (f"--{kind}", str(value))]
        subprocess.run([os.environ["CHECK_EMBED"], model, out, *arguments], check=True, stdout=subprocess.DEVNULL)
        data = out.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head, data = json.loads(data[8:8 + length]), data[8 + length:]
    tensors = {}
    for name, about in head.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            tensors[name] = np.frombuffer(data[start:end], "float32").reshape(about["shape"])
    return tensors


def opened(run, expected, data, is_onnx=True, **options):
    """Opens a run's model from its id, its zip and its folder, and compares them."""
    name = f"opened-{run.name}"
    artifact = run.save_artifact(name)
    zipfile.ZipFile(artifact).extractall(name)
    worst = 0.0
    for place in (run.artifact_id, artifact, f"{name}/{run.name}"):
        model = finetuner.get_model(place, is_onnx=is_onnx, device="cpu", **options)
        found = finetuner.encode(model=model, data=data)
        assert found.shape == expected.shape, (found.shape, expected.shape)
        lengths = np.linalg.norm(expected, axis=1)
        worst = max(worst, float((np.linalg.norm(found - expected, axis=1) / lengths).max()))
    assert worst <= 1e-4, f"they differ by {worst:.1e}"
    return f"from id, zip and folder: largest difference {worst:.1e}"


def needs_full(check):
    """A row that needs `finetuner[full]`."""
    def run():
        if not FULL:
            return "skipped: torch, torchvision, transformers, open_clip and onnxruntime are not installed"
        return check()
    return run


def rgb_files(count=5):
    """Returns images without a palette. The client scales images with a palette
    before it looks up their colors, with the nearest pixel."""
    from PIL import Image

    files = []
    for number, (picture, _) in enumerate(TITLES[:count]):
        files.append(Path(f"rgb-{number}.png").absolute())
        Image.open(FASHION / picture).convert("RGB").save(files[-1])
    return files


QUERIES = ["Good morning.", "I am so sorry!", "bye", "a longer text, which says nothing in particular"]


@row(INFERENCE, "get_model(is_onnx=True), encode() of a BERT")
@needs_full
def _():
    run = fit(model="bert-base-en", train_data=texts(), to_onnx=True)
    expected = ours(run.save_artifact("bert"), text=QUERIES)["text_embeds"]
    return opened(run, expected, QUERIES)


@row(INFERENCE, "get_model(is_onnx=True), encode() of a text model with another length and pooler")
@needs_full
def _():
    run = fit(model="sbert-base-en", train_data=texts(), to_onnx=True, output_dim=24,
              model_options={"pooler": "max"})
    expected = ours(run.save_artifact("sbert"), text=QUERIES)["text_embeds"]
    return opened(run, expected, QUERIES)


def both_towers(model):
    """Embeds texts and images with the parts of a text-to-image model."""
    run = fit(model=model, train_data=pairs(), loss="CLIPLoss", to_onnx=True)
    files = rgb_files()
    expected = ours(run.save_artifact(model), text=QUERIES, picture=files)
    refused(lambda: finetuner.get_model(run.artifact_id, is_onnx=True), "select_model")
    return "; ".join([
        opened(run, expected["text_embeds"], QUERIES, select_model="clip-text"),
        opened(run, expected["image_embeds"], [str(file) for file in files], select_model="clip-vision")])


@row(INFERENCE, "get_model(is_onnx=True, select_model=...), encode() of both towers of a CLIP")
@needs_full
def _():
    return both_towers("clip-base-en")


@row(INFERENCE, "get_model(is_onnx=True, select_model=...), encode() of a text model and an image model as two towers")
@needs_full
def _():
    return both_towers("clip-large-en")


@row(INFERENCE, "get_model(is_onnx=True), encode() of a ResNet and an EfficientNet")
@needs_full
def _():
    from transformers import ConvNextFeatureExtractor, ResNetConfig, ResNetModel

    shape = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1])
    place = HUB / "hub/models--microsoft--resnet-152"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs/main").write_text("local")
    ResNetModel(shape).save_pretrained(place / "snapshots/local")
    ConvNextFeatureExtractor().save_pretrained(place / "snapshots/local")
    files = rgb_files()
    said = []
    for model in ("resnet-large", "efficientnet-base"):
        run = fit(model=model, train_data=pictures(), to_onnx=True)
        expected = ours(run.save_artifact(model), picture=files)["image_embeds"]
        said.append(opened(run, expected, [str(file) for file in files]))
    return "; ".join(said)


@row(INFERENCE, "get_model(), encode() with the networks that the client builds: model_options={'torch': True}")
@needs_full
def _():
    from transformers import ConvNextFeatureExtractor, ResNetConfig, ResNetModel

    files = rgb_files()
    paths = [str(file) for file in files]
    said = []
    run = fit(model="bert-base-en", train_data=texts(), model_options={"torch": True, "pooler": "cls"})
    said.append(opened(run, ours(run.save_artifact("t-bert"), text=QUERIES)["text_embeds"], QUERIES, is_onnx=False))
    run = fit(model="clip-base-en", train_data=pairs(), loss="CLIPLoss", model_options={"torch": True})
    # The end token of the small CLIP is not the highest one, which the client assumes.
    assert "can't build `clip-text`" in run.logs()
    expected = ours(run.save_artifact("t-clip"), picture=files)
    said.append(opened(run, expected["image_embeds"], paths, is_onnx=False))
    # A network of full size, which the client builds by its name.
    place = HUB / "hub/models--microsoft--resnet-50/snapshots/local"
    place.rename(place.with_name("small"))
    try:
        ResNetModel(ResNetConfig()).save_pretrained(place)
        ConvNextFeatureExtractor(size={"shortest_edge": 224}).save_pretrained(place)
        run = fit(model="resnet-base", train_data=pictures(8), learning_rate=1e-6, model_options={"torch": True})
        expected = ours(run.save_artifact("t-resnet"), picture=files)["image_embeds"]
        said.append(opened(run, expected, paths, is_onnx=False))
    finally:
        shutil.rmtree(place)
        place.with_name("small").rename(place)
    return "; ".join(said)


@row(INFERENCE, "get_model(is_onnx=True), encode() of a perceptron")
@needs_full
def _():
    vectors = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    data = DocumentArray(Document(embedding=v, tensor=v, tags={"finetuner_label": str(i % 2)})
                         for i, v in enumerate(vectors))
    run = fit(model="mlp", model_options={"input_size": 6, "hidden_sizes": [4]}, train_data=data, to_onnx=True)
    model = finetuner.get_model(run.artifact_id, is_onnx=True, device="cpu")
    found = finetuner.encode(model=model, data=DocumentArray(Document(tensor=v) for v in vectors)).embeddings
    assert found.shape == (8, 4) and np.isfinite(found).all()


# -- advanced-topics --------------------------------------------------------

LOSSES = "advanced-topics/advanced-losses-optimizers-and-poolers"


@row(LOSSES, "ArcFaceLoss with sampler='random', 'class', 'auto'")
def _():
    for sampler in ("random", "class", "auto"):
        fit(model="resnet-base", train_data=pictures(), loss="ArcFaceLoss", sampler=sampler)


@row(LOSSES, "loss_optimizer, loss_optimizer_options")
def _():
    fit(model="resnet-base", train_data=pictures(), loss="ArcFaceLoss", loss_optimizer="Adam",
        loss_optimizer_options={"weight_decay": 0.01})


@row(LOSSES, "pooler GeM with pooler_options")
def _():
    options = {"pooler": "GeM", "pooler_options": {"p": 2.4, "eps": 1e-5}}
    fit(model="resnet-base", train_data=pictures(), model_options=options)
    fit(model="bert-base-en", train_data=texts(), model_options=options)


@row("advanced-topics/linear-probe", "freeze=True, output_dim=1024")
def _():
    fit(model="resnet50", train_data=pictures(), freeze=True, output_dim=1024)


@row("advanced-topics/negative-mining", "miner='TripletMarginMiner', type_of_triplets='hard'")
def _():
    fit(model="bert-base-en", train_data=texts(), loss="TripletMarginLoss", miner="TripletMarginMiner",
        miner_options={"margin": 0.3, "type_of_triplets": "hard"})


CALLBACKS = "advanced-topics/using-callbacks"


@row(CALLBACKS, "EvaluationCallback(query_data, index_data) of another user, by name")
def _():
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from late import pictures
pictures(16).push("tll-query", public=True); pictures(32).push("tll-index", public=True)
"""
    environment = {**os.environ, "JINA_AUTH_TOKEN": os.environ["OTHER_TOKEN"]}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    run = fit(model="resnet-base", train_data=pictures(),
              callbacks=[EvaluationCallback(query_data="anna/tll-query", index_data="anna/tll-index")])
    assert "precision_at_k" in run.metrics()["after"]


@row(CALLBACKS, "BestModelCheckpoint, TrainingCheckpoint(last_k_epochs=2)")
def _():
    fit(model="bert-base-en", train_data=texts(), epochs=3, callbacks=[BestModelCheckpoint("train_loss")])
    fit(model="bert-base-en", train_data=texts(), epochs=3, callbacks=[TrainingCheckpoint(last_k_epochs=2)])


@row(CALLBACKS, "EarlyStopping(monitor, mode, patience, min_delta, baseline)")
def _():
    run = fit(model="openai/clip-vit-base-patch32", run_name="clip-fashion-early", train_data=pairs(), epochs=10,
              learning_rate=1e-5, loss="CLIPLoss", callbacks=[EarlyStopping(
                  monitor="train_loss", mode="min", patience=2, min_delta=1, baseline=1.5)])
    assert "Training is stopping" in run.logs()


@row(CALLBACKS, "WiSEFTCallback(alpha=0.5)")
def _():
    fit(model="clip-base-en", train_data=pairs(), loss="CLIPLoss", callbacks=[WiSEFTCallback(alpha=0.5)])


@row(CALLBACKS, "WandBLogger writes its files to the artifact, and the log names them")
def _():
    data = pictures()
    run = fit(model="resnet50", run_name="resnet-tll-early-6", train_data=data, learning_rate=1e-6,
              callbacks=[EvaluationCallback(query_data=data), WandBLogger()])
    assert "wandb sync" in run.logs(), run.logs()
    with zipfile.ZipFile(run.save_artifact("wandb")) as artifact:
        assert any("/logs/wandb/offline-run-" in name for name in artifact.namelist())


# -- notebooks --------------------------------------------------------------

@row("notebooks/text_to_text", "fit with EvaluationCallback(batch_size=32)")
def _():
    texts().push("quora-query", public=False)
    run = fit(model="bert-base-en", train_data=texts(), loss="TripletMarginLoss", optimizer="Adam", learning_rate=1e-5,
              epochs=3, callbacks=[EvaluationCallback(query_data="quora-query", index_data="quora-query", batch_size=32)])
    assert run.metrics()["before"]


@row("notebooks/image_to_image", "pull(show_progress=True), fit with EvaluationCallback")
def _():
    pictures().push("tll-train", public=False)
    data = DocumentArray.pull("tll-train", show_progress=True)
    run = fit(model="resnet-base", train_data="tll-train", learning_rate=1e-4,
              callbacks=[EvaluationCallback(query_data="tll-train", index_data=data)])
    assert finetuner.get_run(run.name).status()["status"] == "FINISHED"


@row("notebooks/image_to_image_arcface", "fit with ArcFaceLoss and sampler='random'")
def _():
    fit(model="resnet-base", train_data=pictures(), learning_rate=1e-3, loss="ArcFaceLoss", sampler="random",
        callbacks=[EvaluationCallback(query_data=pictures(), index_data=pictures())])


@row("notebooks/text_to_image", "fit with eval_data, EvaluationCallback(model='clip-text', index_model='clip-vision')")
def _():
    queries = DocumentArray(Document(text=t, tags={"finetuner_label": t}) for _, t in TITLES)
    run = fit(model="clip-base-en", train_data=pairs(), eval_data=pairs(), epochs=2, learning_rate=1e-7, loss="CLIPLoss",
              run_name="text-to-image", callbacks=[EvaluationCallback(
                  model="clip-text", index_model="clip-vision", query_data=queries, index_data=pictures(),
                  gather_examples=True)])
    assert "val_loss" in run.logs()


@row("notebooks/text_to_image", "metrics(), display_metrics(), example_results(), display_examples()")
def _():
    run = finetuner.get_run("text-to-image")
    assert set(run.metrics()) == set(run.example_results()) == {"before", "after"}
    assert run.example_results()["after"]
    run.display_metrics()
    run.display_examples(k=1)
    # Without an evaluation there is nothing to show, but no error either.
    other = finetuner.get_run("clip-fashion-early")
    other.display_metrics()
    other.display_examples()


@row("notebooks/mesh_to_mesh", "pointnet-base refuses texts, and names the supported data")
def _():
    return refused(lambda: finetuner.fit("pointnet-base", texts(), loss="TripletMarginLoss"), "it holds no point cloud",
                   "[points, 3]")


@row("notebooks/data_synthesis", "synthesize(), run.train_data, fit(loss='MarginMSELoss')")
def _():
    from finetuner.model import synthesis_model_en
    run = wait(finetuner.synthesize(["How do I greet?", "How do I leave?"], texts(), models=synthesis_model_en,
                                    num_relations=3, device="cpu"))
    data = DocumentArray.pull(run.train_data)
    assert len(data) == 4 and all(len(document.chunks) == 3 for document in data)
    assert data[0].chunks[0].text == "How do I greet?"
    assert all(isinstance(document.tags["finetuner_score"], float) for document in data)
    assert finetuner.get_run(run.name).train_data == run.train_data
    fit(model="sbert-base-en", train_data=run.train_data, loss="MarginMSELoss")


# -- Endpoints that the client uses and does not document -------------------

@row("README", "fit on CLIP without a loss: CLIPLoss is used, and the log says so")
def _():
    run = fit(model="clip-base-en", train_data=pairs())
    assert "CLIPLoss" in run.logs(), run.logs()


@row("docarray 0.21", "images as data URIs (convert_blob_to_datauri)")
def _():
    data = pictures()
    for doc in data:
        doc.mime_type = "image/png"
        doc.convert_blob_to_datauri(base64=True)
    fit(model="resnet-base", train_data=DocumentArray(Document(uri=d.uri, tags=d.tags) for d in data))


@row("docarray 0.21", "images as tensors, as loaded and normalised (set_image_tensor_normalization)")
def _():
    def tensors(normalised):
        data = pictures()
        for doc in data:
            doc.convert_blob_to_image_tensor(224, 224)
            if normalised:
                doc.set_image_tensor_normalization()
            doc.blob = None
        return DocumentArray(Document(tensor=d.tensor, tags=d.tags) for d in data)
    fit(model="resnet-base", train_data=tensors(False))
    fit(model="resnet-base", train_data=tensors(True))


@row(JOB, "num_warmup_steps above the number of steps is refused, or clamped with a warning")
def _():
    options = dict(model="bert-base-en", train_data=texts(), scheduler="linear",
                   scheduler_options={"num_warmup_steps": 100000})
    try:
        run = finetuner.fit(**{**SMALL, **options})
    except Exception as error:
        assert "num_warmup_steps" in str(error), error
        return f"refused: {str(error)[:120]}"
    assert "num_warmup_steps" in wait(run).logs()


@row("walkthrough/choose-backbone", "model_options that list_model_options() shows: collate_options, preprocess_options")
def _():
    shown = [option["name"] for option in finetuner.list_model_options()["bert-base-en"]]
    assert {"preprocess_options", "collate_options"} <= set(shown)
    fit(model="bert-base-en", train_data=texts(),
        model_options={"collate_options": {"text": {"max_length": 16, "truncation": True}}})
    return refused(lambda: finetuner.fit(
        "resnet-base", pictures(), model_options={"preprocess_options": {"image": {"height": 100}}}, **SMALL),
        "preprocess_options")


@row("advanced-topics/linear-probe", "freeze=True, output_dim=128 on a CLIP")
def _():
    fit(model="clip-base-en", train_data=pairs(), loss="CLIPLoss", freeze=True, output_dim=128)


@row("api-rst", "callbacks with monitor='loss'")
def _():
    fit(model="bert-base-en", train_data=texts(), epochs=2,
        callbacks=[BestModelCheckpoint(monitor="loss"), EarlyStopping(monitor="loss")])


@row(JOB, "layer_wise_lr_decay on a CNN")
def _():
    fit(model="resnet-base", train_data=pictures(), optimizer_options={"layer_wise_lr_decay": 0.98})


@row("api-rst", "model='mlp' with its default options")
def _():
    data = DocumentArray(Document(tensor=np.random.rand(8).astype("float32"), tags={"finetuner_label": str(n % 4)})
                         for n in range(32))
    fit(model="mlp", train_data=data, model_options={"input_size": 8})


@row(SAVE, "tokenizer.json of the artifact is the model's own, byte for byte")
def _():
    cached = HUB / "hub/models--google-bert--bert-base-cased/snapshots/local/tokenizer.json"
    run = fit(model="bert-base-en", train_data=texts())
    with zipfile.ZipFile(run.save_artifact("tokenizer")) as artifact:
        name = next(name for name in artifact.namelist() if name.endswith("/tokenizer.json"))
        assert artifact.read(name) == cached.read_bytes()


# -- api-rst: lists and deletion --------------------------------------------

@row("api-rst", "list_runs, list_experiments: pages, a page past the end, an empty experiment")
def _():
    finetuner.create_experiment("empty")
    assert finetuner.list_runs("empty") == [] and finetuner.get_experiment("empty").list_runs() == []
    runs = finetuner.list_runs("default")
    assert len(finetuner.list_runs("default", page=2, size=1)) == 1
    assert finetuner.list_runs("default", page=9, size=100) == []
    assert len(finetuner.list_runs()) > len(runs)
    assert finetuner.list_experiments(page=9) == []
    # `Experiment.list_runs` starts at page 50 if no page is given.
    assert finetuner.get_experiment("default").list_runs() == []
    for run in finetuner.list_runs("default", page=1, size=3):
        run.metrics(), run.example_results()


@row("api-rst", "delete_run, delete_runs, delete_experiment, delete_experiments")
def _():
    finetuner.delete_run("text-to-image")
    assert "text-to-image" not in [run.name for run in finetuner.list_runs("default", size=100)]
    refused(lambda: finetuner.get_run("text-to-image"), "text-to-image")
    finetuner.delete_runs("default")
    assert finetuner.list_runs("default") == []
    assert finetuner.delete_experiment("empty").name == "empty"
    finetuner.delete_experiments()
    assert finetuner.list_experiments() == []


if __name__ == "__main__":
    sys.exit(run_all(os.environ.get("CHECK_ONLY")) > 0)
