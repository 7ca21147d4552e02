"""Measures the search with a small CLIP that PyTorch trains from random weights: the same shape, data
and settings that `quality` uses for `unseen-drawings` and `unseen-concepts`, without augmentation.

    pip install torch transformers pillow
    cargo run --release -p finetuner-engine --example quality -- TASK --write-blank FOLDER
    python scripts/quality_torch.py TASK FOLDER
"""

import argparse
import csv
import math
import statistics
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

DATA = Path(__file__).parent.parent / "datasets/emoji-clip"
EPOCHS = {"unseen-drawings": 40, "unseen-concepts": 20}
BATCH, RATE, WARM_UP, DECAY, BETAS = 64, 5e-4, 60, 0.1, (0.9, 0.98)


def rows(path):
    with open(path, newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def seed_run(task, folder, seed, by_name):
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig.from_pretrained(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)

    def pixels(paths):
        pictures = [Image.open(DATA / path).convert("RGB") for path in paths]
        return processor(images=pictures, return_tensors="pt").pixel_values

    def tokens(texts):
        return tokenizer(texts, padding=True, truncation=True, return_tensors="pt")

    pairs = rows(DATA / task / "train.csv")
    captions = {}
    if task == "unseen-concepts":
        with open(DATA / "concepts.csv", newline="") as file:
            captions = {row["title"]: row["caption"] for row in csv.DictReader(file)}
    images = pixels([path for path, _ in pairs])
    texts = [captions.get(title, title) for _, title in pairs]

    epochs = EPOCHS[task]
    steps = len(pairs) // BATCH * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=BETAS)

    def factor(step):
        if step < WARM_UP:
            return step / WARM_UP
        return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(pairs))
        for chosen in order[: len(pairs) // BATCH * BATCH].split(BATCH):
            loss = model(**tokens([texts[i] for i in chosen]), pixel_values=images[chosen],
                         return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    model.eval()
    queries, index = rows(DATA / task / "queries.csv"), rows(DATA / task / "index.csv")
    with torch.no_grad():
        batch = tokens([text if by_name else captions.get(text, text) for text, _ in queries])
        found = model(**batch, pixel_values=pixels([path for path, _ in index]))
    similarity = found.logits_per_text
    within = lambda k: statistics.mean(
        any(index[i][1] == label for i in best.tolist())
        for (_, label), best in zip(queries, similarity.topk(k).indices))
    return within(1), within(10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=EPOCHS)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by-name", action="store_true", help="search for names instead of captions")
    args = parser.parse_args()
    torch.set_num_threads(2)
    found = []
    for seed in range(args.seeds):
        found.append(seed_run(args.task, args.folder, seed, args.by_name))
        print(f"{seed:<6} recall@1 {found[-1][0]:.3f}   recall@10 {found[-1][1]:.3f}", flush=True)
    mean = [statistics.mean(values) for values in zip(*found)]
    print(f"mean   recall@1 {mean[0]:.3f}   recall@10 {mean[1]:.3f}")


main()
