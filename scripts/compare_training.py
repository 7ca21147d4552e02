"""Compares what each training method brings to a search, here and in sentence-transformers, with the same settings.

    pip install torch sentence-transformers peft datasets
    python scripts/compare_training.py --model FOLDER [--data fashion-glossary] [--seeds 3] [NAME ...]

FOLDER is a sentence-transformers model, such as all-MiniLM-L6-v2. Each row is one training method. Each run is a
separate process, and its time and peak memory are those of the whole process, from reading the data to the saved model.
Both saved models are opened in sentence-transformers and search with the same queries. The last two columns are searches
with only the first 128 and 64 dimensions of the embeddings.

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
EPOCHS, BATCH, RATE = 2, 64, 5e-5
# Each method changes some of these settings.
WAYS = {
    "batches at random": dict(duplicates=True),
    "no duplicates": {},
    "three mined negatives": dict(negatives=3, batch=16),
    "batches of 256, cached by 32": dict(batch=256, mini_batch=32, rate=2e-4),
    "Matryoshka: all, 128, 64": dict(dims=[128, 64]),
    "LoRA, rank 16": dict(lora=16, rate=1e-3),
    "dropout": dict(dropout=True),
}
COLUMNS = ["recall@1", "recall@10", "recall@1 of 128", "recall@1 of 64"]


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


# ---- Ours ----

def field(number, data):
    """Encodes a protobuf field of bytes."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
    return varint(number << 3 | 2) + varint(len(data)) + data


def write_pairs(pairs, path):
    """Encodes documents of two texts in the format of docarray 0.x."""
    out = b"\x01" + struct.pack(">Q", len(pairs))
    for pair in pairs:
        document = gzip.compress(b"".join(field(14, field(4, text.encode())) for text in pair))
        out += struct.pack(">I", len(document)) + document
    path.write_bytes(out)


def configuration(way, model, seed, dim):
    options = {"seed": seed, "dropout": way.get("dropout", False)}
    if rank := way.get("lora"):
        options["lora"] = {"r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    hyper = {"loss": "MultipleNegativeRankingLoss", "loss_options": {"scale": 20.0}, "epochs": EPOCHS,
             "batch_size": way.get("batch", BATCH), "learning_rate": way.get("rate", RATE), "optimizer": "AdamW",
             "optimizer_options": {"weight_decay": 0.0}, "scheduler": "linear"}
    data = {"train_data": "train"}
    if way.get("duplicates"):
        data["sampler"] = "random"
    if size := way.get("mini_batch"):
        hyper["loss_options"]["mini_batch_size"] = size
    if dims := way.get("dims"):
        hyper |= {"loss": "MatryoshkaLoss", "loss_options": {
            "loss": "MultipleNegativeRankingLoss", "loss_options": {"scale": 20.0}, "matryoshka_dims": [dim, *dims]}}
    if count := way.get("negatives"):
        hyper["mine_hard_negatives"] = {"num_negatives": count, "relative_margin": 0.05}
    return {"run_name": "run", "experiment_name": "ways", "model": {"name": str(model), "options": options},
            "data": data, "hyper_parameters": hyper, "callbacks": []}


def train_here(way, model, pairs, seed, to, dim):
    config, data, saved = to / "config.json", to / "train.da", to / "saved.zip"
    write_pairs(pairs, data)
    config.write_text(json.dumps(configuration(way, model, seed, dim)))
    profile = os.environ.get("PROFILE", "release")
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "examples/fine_tune"
    taken = run([program, config, data, saved])
    zipfile.ZipFile(saved).extractall(to)
    return next(path for path in to.iterdir() if (path / "modules.json").exists()), taken


# ---- sentence-transformers ----

def train_there(way, model, pairs, seed, to, dim):
    job = to / "job.json"
    job.write_text(json.dumps(dict(way=way, model=str(model), pairs=pairs, seed=seed, dim=dim, to=str(to / "model"))))
    return to / "model", run([sys.executable, __file__, "--train", job])


def train_by_library(job):
    """Trains once with sentence-transformers, in a separate process."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (SentenceTransformer, SentenceTransformerTrainer,
                                       SentenceTransformerTrainingArguments, losses)
    from sentence_transformers.training_args import BatchSamplers
    from sentence_transformers.util import mine_hard_negatives

    torch.set_num_threads(2)
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
    if size := way.get("mini_batch"):
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)
    else:
        loss = losses.MultipleNegativesRankingLoss(model)
    if dims := way.get("dims"):
        loss = losses.MatryoshkaLoss(model, loss, [job["dim"], *dims])
    sampler = BatchSamplers.BATCH_SAMPLER if way.get("duplicates") else BatchSamplers.NO_DUPLICATES
    arguments = SentenceTransformerTrainingArguments(
        output_dir=job["to"] + "-run", num_train_epochs=EPOCHS, per_device_train_batch_size=way.get("batch", BATCH),
        learning_rate=way.get("rate", RATE), lr_scheduler_type="linear", batch_sampler=sampler, seed=job["seed"],
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

    queries, index = read_rows(data / "queries.csv"), read_rows(data / "index.csv")
    model = SentenceTransformer(str(folder), device="cpu")
    asked, found = (model.encode([text for text, _ in rows], convert_to_tensor=True) for rows in (queries, index))

    def recall(limit, dim):
        a, b = (x[:, :dim] / x[:, :dim].norm(dim=1, keepdim=True) for x in (asked, found))
        best = (a @ b.T).topk(limit, dim=1).indices.tolist()
        hits = sum(any(index[place][1] == label for place in places) for (_, label), places in zip(queries, best))
        return hits / len(queries)
    whole = asked.shape[1]
    return [recall(1, whole), recall(10, whole), recall(1, 128), recall(1, 64)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help="parts of the names of the training methods; all by default")
    parser.add_argument("--model")
    parser.add_argument("--data", default="fashion-glossary")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--search", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train_by_library(json.loads(Path(options.train).read_text()))
    if options.search:
        return print(json.dumps(search_here(*map(Path, options.search))))
    model, data = Path(options.model).resolve(), ROOT / "datasets" / options.data
    pairs = read_rows(data / "train.csv")
    dim = json.loads((model / "config.json").read_text())["hidden_size"]
    print(f"| way | program | {' | '.join(COLUMNS)} | s | peak MB |\n|{' --- |' * (len(COLUMNS) + 4)}")
    show = lambda values: " | ".join(f"{value:.3f}" for value in values)
    print(f"| before | | {show(search(model, data))} | | |", flush=True)
    for name, way in WAYS.items():
        if options.ways and not any(part in name for part in options.ways):
            continue
        for program, train in (("ours", train_here), ("theirs", train_there)):
            rows, times = [], []
            for seed in range(options.seeds):
                to = Path(tempfile.mkdtemp())
                try:
                    folder, taken = train(way, model, pairs, seed, to, dim)
                    rows.append(search(folder, data))
                    times.append(taken)
                finally:
                    shutil.rmtree(to)
            means = [statistics.mean(column) for column in zip(*rows)]
            seconds, peak = (statistics.median(column) for column in zip(*times))
            print(f"| {name} | {program} | {show(means)} | {seconds:.1f} | {peak:.0f} |", flush=True)


main()
