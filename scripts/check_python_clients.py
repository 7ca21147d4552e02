"""The Python clients of both generations, unchanged, against a server of ours:
they log in, push, fit, follow, list, fetch and delete, and the fine-tuning is
real. Ends with an error where anything is not as a user of theirs expects.

Each generation needs a Python environment of its own:

    python -m venv late && late/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "jina-hubble-sdk==0.33.1" "finetuner-stubs==0.13.10" "docarray[common]==0.21.0"
    late/bin/pip install --no-deps "finetuner==0.8.1"

    python -m venv early && early/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "docarray==0.13.19" "protobuf==3.20.3" "aiohttp==3.9.5" pathspec docker importlib-metadata
    early/bin/pip install --no-deps "jina-hubble-sdk==0.5.1" "finetuner-client==0.2.2"

    python scripts/check_python_clients.py --late late/bin/python --early early/bin/python

`--no-deps` since some of what they were pinned to is no longer to be had:
finetuner 0.8.1 wants a commons package whose tokenizers can't be built with a
Python of today, and jina-hubble-sdk 0.5.1 an aiohttp that can't.

The clients know the names of their own models alone, and the one of the guide
comes from a hub. So that no network is needed, a first run makes a small CLIP,
which is put into the hub's local cache under that name.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "datasets/emoji-clip"
PAIRS = 24


def documents(Document, DocumentArray):
    """Text-image pairs of the fashion data."""
    rows = [r.split(",", 1) for r in (DATA / "fashion/train.csv").read_text().splitlines()]
    pairs = DocumentArray()
    for picture, title in rows[:PAIRS]:
        image = Document(blob=(DATA / picture).read_bytes(), modality="image")
        pairs.append(Document(chunks=[image, Document(text=title, modality="text")]))
    return pairs


def check(what, good):
    print(f"  {what}: {'good' if good else 'BAD'}")
    if not good:
        sys.exit(1)


def wait(run):
    for _ in range(600):
        status = run.status()["status"]
        if status in ("FINISHED", "FAILED"):
            return status
        time.sleep(0.5)
    return "never ended"


def late():
    import finetuner
    from docarray import Document, DocumentArray
    from finetuner.callback import BestModelCheckpoint, EvaluationCallback

    finetuner.login()
    check("login by token", finetuner.get_token() == os.environ["JINA_AUTH_TOKEN"])
    data = documents(Document, DocumentArray)
    data.push("late-train", public=False)
    check("pull what was pushed", DocumentArray.pull("late-train", local_cache=False)[0].id == data[0].id)
    options = dict(
        model="clip-base-en", loss="CLIPLoss", epochs=3, batch_size=8, learning_rate=1e-3, device="cpu",
        callbacks=[BestModelCheckpoint("train_loss"),
                   EvaluationCallback("late-train", gather_examples=True)],
    )
    run = finetuner.fit(train_data="late-train", run_name="by-name", **options)
    check("the artifact has an id at once", len(run._run["artifact_id"]) == 24)
    lines = list(run.stream_logs(interval=1))
    check(f"a streamed log of {len(lines)} lines", any("Finished" in line for line in lines))
    check("finished", run.status()["status"] == "FINISHED")
    check("logs", "Training [3/3]" in run.logs())
    metrics = run.metrics()
    before, after = (metrics[stage]["recall_at_k"] for stage in ("before", "after"))
    check(f"recall@20 from {before:.3f} to {after:.3f}", after > before)
    check("examples", len(run.example_results()["after"]) > 0)
    run.display_metrics()
    run.display_examples(k=1)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(run.save_artifact(folder))
        check(f"an artifact of {saved.stat().st_size} bytes", saved.stat().st_size > 1 << 20)
    options["callbacks"] = []
    run = finetuner.fit(train_data=data, run_name="by-documents", **{**options, "epochs": 1})
    check("fit with documents", wait(run) == "FINISHED")
    check("the run is found again", finetuner.get_run("by-documents").name == "by-documents")
    check("a config that comes back", run.config["hyper_parameters"]["epochs"] == 1)
    names = [r.name for r in finetuner.list_runs(experiment_name="default")]
    check(f"runs {names}", names == ["by-name", "by-documents"])
    check("a page of one", len(finetuner.list_runs("default", page=2, size=1)) == 1)
    check("a page past the end", finetuner.list_runs("default", page=9, size=1) == [])
    check("experiments", [e.name for e in finetuner.list_experiments()] == ["default"])
    finetuner.delete_run("by-documents", experiment_name="default")
    check("deleted", [r.name for r in finetuner.list_runs("default")] == ["by-name"])
    try:
        finetuner.fit(train_data="none", run_name="bad", **options)
        check("an error for data that is not there", False)
    except Exception as error:
        check(f"an error: {str(error)[:70]}", "none" in str(error))
    finetuner.delete_experiments()
    check("all deleted", finetuner.list_experiments() == [])


def early():
    import threading
    import webbrowser

    import requests

    # What the user does in the browser.
    def user(page, new=0):
        def act():
            base = os.environ["JINA_HUBBLE_REGISTRY"]
            browser = requests.Session()
            browser.headers["Origin"] = base
            browser.post(f"{base}/console/signin", data={"password": os.environ["USER_TOKEN"]})
            check("the page asks", "Let a program in" in browser.get(page).text)
            request = page.split("request=")[1]
            answer = browser.post(f"{base}/console/authorize",
                                  data={"request": request, "answer": "yes"}).text
            value = lambda name: answer.split(f'name="{name}" value="')[1].split('"')[0]
            action = answer.split('action="http://localhost')[1].split('"')[0]
            requests.post(f"http://localhost{action}",
                          data={"code": value("code"), "state": value("state")})
        threading.Thread(target=act).start()

    webbrowser.open = user
    import finetuner
    from docarray import Document, DocumentArray
    from finetuner.callback import BestModelCheckpoint, EvaluationCallback

    finetuner.login()
    check("login through the browser", True)
    data = documents(Document, DocumentArray)
    data.push("early-train", public=False)
    run = finetuner.fit(
        model="openai/clip-vit-base-patch32", run_name="clip-fashion-1", train_data="early-train",
        eval_data="early-train", epochs=2, learning_rate=1e-3, loss="CLIPLoss", cpu=True,
        image_modality="image", text_modality="text", multi_modal=True,
        callbacks=[BestModelCheckpoint(), EvaluationCallback(query_data="early-train")],
    )
    check("finished", wait(run) == "FINISHED")
    logs = run.logs()
    check("logs", "Training [2/2]" in logs and "val_loss" in logs)
    with tempfile.TemporaryDirectory() as folder:
        saved = run.save_model(str(Path(folder) / "model"))
        paths = saved if isinstance(saved, list) else [saved]
        check(f"a saved model: {paths}", all(Path(p).exists() for p in paths))
    run = finetuner.fit(
        model="openai/clip-vit-base-patch32", run_name="documents", train_data=data, epochs=1, loss="CLIPLoss",
        multi_modal=True, image_modality="image", text_modality="text", cpu=True)
    check("fit with documents", wait(run) == "FINISHED")
    check("found again", finetuner.get_run("clip-fashion-1").status()["status"] == "FINISHED")
    names = sorted(r.name for r in finetuner.list_runs())
    check(f"runs {names}", names == ["clip-fashion-1", "documents"])
    finetuner.delete_run("documents")
    check("deleted", [r.name for r in finetuner.list_runs()] == ["clip-fashion-1"])
    finetuner.create_experiment("another")
    check("experiments", "another" in [e.name for e in finetuner.list_experiments()])
    finetuner.delete_experiments()
    check("all deleted", finetuner.list_experiments() == [])


def put_in_cache(hub, model):
    """Puts the model of a folder where those of the hub are cached."""
    place = hub / "hub/models--openai--clip-vit-base-patch32"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("local")
    shutil.copytree(model, place / "snapshots/local")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--late", help="a Python with finetuner 0.8.1")
    parser.add_argument("--early", help="a Python with finetuner-client 0.2.2")
    parser.add_argument("--as", dest="role", choices=["late", "early"])
    options = parser.parse_args()
    if options.role:
        return {"late": late, "early": early}[options.role]()
    subprocess.run(["cargo", "build", "--release", "--workspace", "--bins", "--examples"], check=True, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    with tempfile.TemporaryDirectory() as folder:
        hub, model = Path(folder) / "hub", Path(folder) / "clip"
        subprocess.run([target / "examples/text_to_image", "--epochs", "1", "--output", model], check=True,
                       stdout=subprocess.DEVNULL)
        put_in_cache(hub, model)
        environment = {**os.environ, "HF_HOME": str(hub)}
        server = subprocess.Popen(
            [target / "finetuner-server", "serve", "--address", "127.0.0.1:0",
             "--data", Path(folder) / "data"], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            url = token = None
            while token is None:
                line = server.stdout.readline()
                url = line.split()[-1] if "is ready at" in line else url
                token = line.split()[-1] if line.startswith("Token") else None
            for role in ("late", "early"):
                python = getattr(options, role)
                if not python:
                    continue
                home = Path(folder) / role
                home.mkdir()
                environment = {
                    **os.environ, "JINA_FINETUNER_REGISTRY": url, "JINA_HUBBLE_REGISTRY": url,
                    "JINA_HUB_ROOT": str(home), "HOME": str(home), "USER_TOKEN": token,
                }
                environment.pop("JINA_AUTH_TOKEN", None)
                if role == "late":
                    environment["JINA_AUTH_TOKEN"] = token
                print(f"{role}: {python}")
                script = str(Path(__file__).resolve())
                subprocess.run([python, script, "--as", role], env=environment, cwd=home, check=True)
        finally:
            server.terminate()
            server.wait()
    print("all good")


if __name__ == "__main__":
    main()
