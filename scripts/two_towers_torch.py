"""Measures the search with two linear layers that PyTorch trains on the frozen towers of `two-towers-small`, with the
data and settings that `quality` uses for two towers.

    pip install torch transformers pillow safetensors
    python scripts/two_towers_torch.py unseen-concepts --epochs 20 --dim 256
"""

import argparse
import csv
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel

ROOT = Path(__file__).resolve().parent.parent
DATA, MODELS = ROOT / "datasets/emoji-clip", ROOT / "crates/models"
KERNELS, STRIDES, REPEATS = [3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 2, 1, 2, 1], [1, 2, 2, 3, 3, 4, 1]


def rows(path):
    with open(DATA / path, newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


class Lite:
    """EfficientNet-Lite0, which transformers does not contain."""

    def __init__(self):
        file = MODELS / "efficientnet-small/files/model.safetensors"
        self.weights = {name: tensor.float() for name, tensor in load_file(file).items()}

    def layer(self, x, name, norm, relu=True, **how):
        get = self.weights.get
        x = F.conv2d(x, get(f"{name}.weight"), **how)
        x = F.batch_norm(x, get(f"{norm}.running_mean"), get(f"{norm}.running_var"), get(f"{norm}.weight"),
                         get(f"{norm}.bias"), eps=1e-3)
        return x.clamp(0, 6) if relu else x

    def __call__(self, x):
        x = self.layer(F.pad(x, (0, 1, 0, 1)), "embeddings.convolution", "embeddings.batchnorm", stride=2)
        number = 0
        for stage, (kernel, first) in enumerate(zip(KERNELS, STRIDES)):
            for repeat in range(REPEATS[stage]):
                block, y, stride = f"encoder.blocks.{number}", x, 1 if repeat else first
                if stage:
                    y = self.layer(y, f"{block}.expansion.expand_conv", f"{block}.expansion.expand_bn")
                sides = (kernel // 2 - (stride == 2), kernel // 2) * 2
                y = self.layer(F.pad(y, sides), f"{block}.depthwise_conv.depthwise_conv",
                               f"{block}.depthwise_conv.depthwise_norm", stride=stride, groups=y.shape[1])
                y = self.layer(y, f"{block}.projection.project_conv", f"{block}.projection.project_bn", relu=False)
                x, number = (x + y if repeat else y), number + 1
        return self.layer(x, "encoder.top_conv", "encoder.top_bn").mean((2, 3))


def picture(path):
    image = Image.open(DATA / path).convert("RGBA")
    white = Image.new("RGBA", image.size, (255,) * 4)
    white.alpha_composite(image)
    pixels = np.asarray(white.convert("RGB").resize((224, 224), Image.BICUBIC)).copy()
    return (torch.tensor(pixels).permute(2, 0, 1).float() - 127) / 128


def text_tower():
    folder = MODELS / "minilm-small/files"
    file = folder / "model.safetensors"
    packed, shapes = load_file(file), safe_open(str(file), "pt").metadata()
    weights = {name: tensor.float() for name, tensor in packed.items() if not name.endswith((".q4", ".scales"))}
    for name in (name.removesuffix(".q4") for name in packed if name.endswith(".q4")):
        halves = packed[f"{name}.q4"].flatten()
        values = torch.stack([halves & 15, halves >> 4], 1).flatten().float() - 8
        shape = [int(size) for size in shapes[name].split(",")]
        scales = packed[f"{name}.scales"].flatten().float().repeat_interleave(32)
        count = math.prod(shape)
        weights[name] = (values[:count] * scales[:count]).reshape(shape)
    config = json.loads((folder / "config.json").read_text())
    model = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    model.load_state_dict(weights, strict=False)
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def embed(paths, texts):
    """Returns the outputs of both towers, by path and by text."""
    lite, (bert, tokenizer) = Lite(), text_tower()
    found = {}
    for start in range(0, len(paths), 32):
        part = paths[start:start + 32]
        found.update(zip(part, lite(torch.stack([picture(path) for path in part]))))
    for start in range(0, len(texts), 64):
        part = texts[start:start + 64]
        batch = tokenizer(part, padding=True, truncation=True, max_length=128, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = bert(**batch).last_hidden_state
        found.update(zip(part, (hidden * mask).sum(1) / mask.sum(1)))
    return found


def seed_run(found, pairs, queries, index, seed, args):
    torch.manual_seed(seed)
    stack = lambda names: torch.stack([found[name] for name in names])
    images, texts = stack([path for path, _ in pairs]), stack([text for _, text in pairs])
    project = [torch.nn.Linear(x.shape[1], args.dim, bias=False) for x in (texts, images)]
    scale = torch.nn.Parameter(torch.tensor(args.scale))
    optimizer = torch.optim.AdamW([scale, *(p for layer in project for p in layer.parameters())], lr=args.rate,
                                  weight_decay=args.decay)
    batches = lambda: torch.randperm(len(pairs)).split(args.batch)
    steps = len(batches()) * args.epochs
    factor = lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)) if args.cosine else 1.0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    both = lambda x, y: [F.normalize(layer(z)) for layer, z in zip(project, (x, y))]
    for _ in range(args.epochs):
        for chosen in batches():
            x, y = both(texts[chosen], images[chosen])
            logits, own = x @ y.T * scale.exp(), torch.arange(len(chosen))
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        x, y = both(stack([text for text, _ in queries]), stack([path for path, _ in index]))
    within = lambda k: statistics.mean(any(index[i][1] == label for i in best.tolist())
                                       for (_, label), best in zip(queries, (x @ y.T).topk(k).indices))
    return within(1), within(10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["fashion", "unseen-drawings", "unseen-concepts"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--scale", type=float, default=1.6, help="the logit scale's logarithm at the start")
    parser.add_argument("--cosine", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--outputs", type=Path, help="keeps the towers' outputs in this file")
    args = parser.parse_args()
    torch.set_num_threads(2)
    pairs, queries, index = (rows(f"{args.task}/{name}.csv") for name in ("train", "queries", "index"))
    if args.outputs and args.outputs.exists():
        found = torch.load(args.outputs)
    else:
        found = embed(sorted({path for path, _ in pairs + index}), sorted({text for _, text in pairs} |
                                                                       {text for text, _ in queries}))
        if args.outputs:
            torch.save(found, args.outputs)
    runs = [seed_run(found, pairs, queries, index, seed, args) for seed in range(args.seeds)]
    for name, values in zip(("recall@1 ", "recall@10"), zip(*runs)):
        print(f"{name} {', '.join(f'{value:.3f}' for value in values)}   mean {statistics.mean(values):.3f}")


main()
