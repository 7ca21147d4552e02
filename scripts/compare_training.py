"""Compares what each training method brings to a search, here and in sentence-transformers, with the same settings.

    pip install torch sentence-transformers peft datasets pillow
    python scripts/compare_training.py --model FOLDER [--data fashion-glossary] [--seeds 3] [--program ours] [NAME ...]

FOLDER is a sentence-transformers model, such as all-MiniLM-L6-v2. For `--data emoji-clip/fashion`, images with titles,
it is a CLIP in the layout of transformers, such as crates/models/clip-small/files.

Each row is one training method. Each run is a separate process, and its time and peak memory are those of the whole
process, from reading the data to the saved model. Both saved models are opened in sentence-transformers and search with
the same queries. The last two columns are searches with only the first 128 and 64 dimensions of the embeddings, or with
a half and a quarter of them if there are at most 128.

For images, the loss is that of `CLIPModel` in transformers: cross-entropy in both directions, with the model's own
`logit_scale`. Both programs train that scale, except with LoRA. Neither augments the images.

`PROFILE=debug` uses the debug build of the engine's example.
"""

import argparse
import csv
import gzip
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = ROOT / "datasets"
# The trainer of sentence-transformers limits the norm of the gradients to 1 by default.
ADAMW = {"weight_decay": 0.0, "max_grad_norm": 1.0}
# Settings of the two kinds of training data. Each method changes some of them.
TEXTS = dict(
    images=False, dim="hidden_size", epochs=2, batch=64, rate=5e-5,
    loss="MultipleNegativeRankingLoss", loss_options={"scale": 20.0},
)
TEXT_WAYS = {
    "batches at random": dict(duplicates=True),
    "no duplicates": {},
    "three mined negatives": dict(negatives=3, batch=16),
    "batches of 256, cached by 32": dict(batch=256, mini_batch=32, rate=2e-4),
    "Matryoshka: all, {}, {}": dict(matryoshka=True),
    "LoRA, rank 16": dict(lora=16, rate=1e-3),
    "dropout": dict(dropout=True),
}
IMAGES = dict(
    images=True, dim="projection_dim", epochs=40, batch=32, rate=3e-4, loss="CLIPLoss", loss_options={},
)
# There are only 47 titles: batches of 128 can't be without duplicates.
IMAGE_WAYS = {
    "batches at random": dict(duplicates=True),
    "no duplicates": {},
    "batches of 128 at random, cached by 32": dict(duplicates=True, batch=128, mini_batch=32, rate=6e-4),
    "Matryoshka: all, {}, {}": dict(matryoshka=True),
    "LoRA, rank 16": dict(lora=16, rate=3e-3),
}
NOT_FOR_IMAGES = {
    "three mined negatives": "hard negatives are for texts only",
    "dropout": "the configurations of CLIPs have a dropout of 0",
}


def has_images(data):
    return data.startswith("emoji-clip/")


def read_rows(data, name):
    """Reads a table. Images are paths, relative to the folder above the table's."""
    folder = DATA / data
    with open(folder / f"{name}.csv", newline="") as file:
        rows = list(csv.reader(file))
    if has_images(data) and name != "queries":
        rows = [[folder.parent / image, text] for image, text in rows]
    return rows


def first_dims(dim):
    """Returns the two numbers of dimensions that a search is limited to."""
    return [128, 64] if dim > 128 else [dim // 2, dim // 4]


# ---- Ours ----

def field(number, data):
    """Encodes a protobuf field of bytes."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
    return varint(number << 3 | 2) + varint(len(data)) + data


def item(value):
    """Encodes a text, or the file of an image."""
    return field(2, value.read_bytes()) if isinstance(value, Path) else field(4, value.encode())


def write_pairs(pairs, path):
    """Encodes documents of two items in the format of docarray 0.x."""
    out = b"\x01" + struct.pack(">Q", len(pairs))
    for pair in pairs:
        document = gzip.compress(b"".join(field(14, item(value)) for value in pair))
        out += struct.pack(">I", len(document)) + document
    path.write_bytes(out)


def configuration(way, model, seed):
    options = {"seed": seed, "dropout": way.get("dropout", False)}
    if rank := way.get("lora"):
        options["lora"] = {"r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    loss, loss_options = way["loss"], dict(way["loss_options"])
    if size := way.get("mini_batch"):
        loss_options["mini_batch_size"] = size
    if way.get("matryoshka"):
        loss_options = {"loss": loss, "loss_options": loss_options, "matryoshka_dims": way["dims"]}
        loss = "MatryoshkaLoss"
    hyper = {"loss": loss, "loss_options": loss_options, "epochs": way["epochs"], "batch_size": way["batch"],
             "learning_rate": way["rate"], "optimizer": "AdamW", "optimizer_options": ADAMW,
             "scheduler": "linear"}
    data = {"train_data": "train"}
    if way.get("duplicates"):
        data["sampler"] = "random"
    if count := way.get("negatives"):
        hyper["mine_hard_negatives"] = {"num_negatives": count, "relative_margin": 0.05}
    return {"run_name": "run", "experiment_name": "ways", "model": {"name": str(model), "options": options},
            "data": data, "hyper_parameters": hyper, "callbacks": []}


def train_here(way, model, pairs, seed, to):
    config, data, saved = to / "config.json", to / "train.da", to / "saved.zip"
    write_pairs(pairs, data)
    config.write_text(json.dumps(configuration(way, model, seed)))
    profile = os.environ.get("PROFILE", "release")
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "examples/fine_tune"
    taken = run([program, config, data, saved])
    zipfile.ZipFile(saved).extractall(to)
    return to / "run", taken


# ---- sentence-transformers ----

def train_there(way, model, pairs, seed, to):
    job = to / "job.json"
    pairs = [list(map(str, pair)) for pair in pairs]
    job.write_text(json.dumps(dict(way=way, model=str(model), pairs=pairs, seed=seed, to=str(to / "model"))))
    return to / "model", run([sys.executable, __file__, "--train", job])


def train_by_library(job):
    """Trains once with sentence-transformers, in a separate process."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (SentenceTransformer, SentenceTransformerTrainer,
                                       SentenceTransformerTrainingArguments, losses)
    from sentence_transformers.training_args import BatchSamplers
    from sentence_transformers.util import cos_sim, mine_hard_negatives

    torch.set_num_threads(2)
    torch.manual_seed(job["seed"])
    way = job["way"]
    model = SentenceTransformer(job["model"], device="cpu")
    data = Dataset.from_dict({"anchor": [a for a, _ in job["pairs"]], "positive": [p for _, p in job["pairs"]]})
    if count := way.get("negatives"):
        data = mine_hard_negatives(data, model, num_negatives=count, relative_margin=0.05, output_format="n-tuple")
    if rank := way.get("lora"):
        from peft import LoraConfig, get_peft_model
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
        model[0].model = get_peft_model(model[0].model, lora)
    if not way.get("dropout"):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    settings = {}
    if way["images"]:
        logit_scale = model[0].model.logit_scale
        settings = dict(similarity_fct=lambda a, b: cos_sim(a, b) * logit_scale.exp(), scale=1.0,
                        directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")
    if size := way.get("mini_batch"):
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size, **settings)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, **settings)
    if way.get("matryoshka"):
        loss = losses.MatryoshkaLoss(model, loss, way["dims"])
    sampler = BatchSamplers.BATCH_SAMPLER if way.get("duplicates") else BatchSamplers.NO_DUPLICATES
    arguments = SentenceTransformerTrainingArguments(
        output_dir=job["to"] + "-run", num_train_epochs=way["epochs"], per_device_train_batch_size=way["batch"],
        learning_rate=way["rate"], lr_scheduler_type="linear", batch_sampler=sampler, seed=job["seed"],
        use_cpu=True, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    if way.get("lora"):
        model[0].model = model[0].model.merge_and_unload()
    model.save(job["to"])


# ---- Both ----

def run(command):
    """Returns seconds and peak MB of a process."""
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(errors.decode(errors="replace")[-2000:])
    return time.monotonic() - started, usage.ru_maxrss / 1024


def search(folder, data):
    """Searches in a separate process. Otherwise this process would grow, and the peak memory that the system reports
    of a child is at least what its parent used when it started the child."""
    said = subprocess.run([sys.executable, __file__, "--search", folder, data], check=True, stdout=subprocess.PIPE)
    return json.loads(said.stdout.splitlines()[-1])


def search_here(folder, data):
    """Returns the recall of the queries' own labels, with all dimensions and with the first ones."""
    from sentence_transformers import SentenceTransformer

    queries, index = read_rows(data, "queries"), read_rows(data, "index")
    model = SentenceTransformer(str(folder), device="cpu")
    asked, found = (model.encode([str(value) for value, _ in rows], convert_to_tensor=True)
                    for rows in (queries, index))

    def recall(limit, dim):
        a, b = (x[:, :dim] / x[:, :dim].norm(dim=1, keepdim=True) for x in (asked, found))
        best = (a @ b.T).topk(limit, dim=1).indices.tolist()
        hits = sum(any(index[place][1] == label for place in places) for (_, label), places in zip(queries, best))
        return hits / len(queries)
    whole = asked.shape[1]
    return [recall(1, whole), recall(10, whole), *(recall(1, dim) for dim in first_dims(whole))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help="parts of the names of the training methods; all by default")
    parser.add_argument("--model")
    parser.add_argument("--data", default="fashion-glossary")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--program", choices=["ours", "theirs"], help="only this one; both by default")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--search", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train_by_library(json.loads(Path(options.train).read_text()))
    if options.search:
        return print(json.dumps(search_here(*options.search)))
    model, data = Path(options.model).resolve(), options.data
    task, ways, missing = (IMAGES, IMAGE_WAYS, NOT_FOR_IMAGES) if has_images(data) else (TEXTS, TEXT_WAYS, {})

    def is_asked(name):
        return any(part in name for part in options.ways)
    for name in filter(is_asked, missing):
        print(f"No {name}: {missing[name]}.", file=sys.stderr)
    pairs = read_rows(data, "train")
    dim = json.loads((model / "config.json").read_text())[task["dim"]]
    dims = first_dims(dim)
    columns = ["recall@1", "recall@10", *(f"recall@1 of {dim}" for dim in dims)]
    print(f"| way | program | {' | '.join(columns)} | s | peak MB |\n|{' --- |' * (len(columns) + 4)}")
    show = lambda values: " | ".join(f"{value:.3f}" for value in values)
    print(f"| before | | {show(search(model, data))} | | |", flush=True)
    for name, changes in ways.items():
        name, way = name.format(*dims), task | {"dims": [dim, *dims]} | changes
        if options.ways and not is_asked(name):
            continue
        for program, train in (("ours", train_here), ("theirs", train_there)):
            if options.program not in (None, program):
                continue
            rows, times = [], []
            for seed in range(options.seeds):
                to = Path(tempfile.mkdtemp())
                try:
                    folder, taken = train(way, model, pairs, seed, to)
                    rows.append(search(folder, data))
                    times.append(taken)
                finally:
                    shutil.rmtree(to)
            means = [statistics.mean(column) for column in zip(*rows)]
            seconds, peak = (statistics.median(column) for column in zip(*times))
            print(f"| {name} | {program} | {show(means)} | {seconds:.1f} | {peak:.0f} |", flush=True)


main()
