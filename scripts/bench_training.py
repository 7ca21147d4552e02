"""Compares training speed with PyTorch: the same shapes, batches and optimizer, two threads each. The
programs alternate, so that changes in the machine's load affect both.

    pip install torch transformers pytorch-metric-learning
    python scripts/bench_training.py [--rounds 3] [--case NAME] [--encode | --bfloat16]

Prints examples per second (median of the rounds), the ratio, and the peak memory. PyTorch runs as most
people run it: `transformers` with its default attention and `torch.optim.AdamW` ("stock"), and with the
fused AdamW. With `--encode`, both embed examples without training. With `--bfloat16`, the engine trains
with `precision` bfloat16 and PyTorch under `torch.autocast`. A CLIP uses its own loss, other models use
NTXentLoss with two examples per class.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = json.loads((ROOT / "crates/models/clip-small/files/config.json").read_text())
MINILM = dict(model_type="bert", hidden_size=384, intermediate_size=1536, num_hidden_layers=6,
              num_attention_heads=12, vocab_size=30522)
CASES = {
    "clip-small": dict(title="clip-small, batch 32", config=SMALL, batch=32, steps=20),
    "clip-8": dict(title="clip-vit-base-patch32, batch 8", config=dict(model_type="clip"), batch=8, steps=5),
    "clip-16": dict(title="clip-vit-base-patch32, batch 16", config=dict(model_type="clip"), batch=16, steps=4),
    "minilm": dict(title="MiniLM-L6, batch 32, 64 tokens", config=MINILM, batch=32, tokens=64, steps=8),
    "bert": dict(title="BERT-base, batch 32, 64 tokens", config=dict(model_type="bert"), batch=32,
                 tokens=64, steps=4),
    "resnet50": dict(title="ResNet-50, batch 16", config=dict(model_type="resnet"), batch=16, steps=4),
    "efficientnet": dict(title="EfficientNet-B0, batch 16", batch=16, steps=4, config=dict(
        model_type="efficientnet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
        image_size=224)),
}
THREADS = 2


def torch_model(case):
    """Returns a model with random weights, its inputs, and a function that computes embeddings."""
    import torch
    import transformers as t

    config, batch = case["config"], case["batch"]
    kind = config.get("model_type", "clip")
    rest = {k: v for k, v in config.items() if k != "model_type"}
    if kind == "clip":
        model = t.CLIPModel._from_config(t.CLIPConfig(**rest))
        text, vision = model.config.text_config, model.config.vision_config
        ids = torch.randint(3, text.vocab_size - 3, (batch, text.max_position_embeddings))
        ids[:, -1] = text.eos_token_id
        pixels = torch.randn(batch, 3, vision.image_size, vision.image_size)
        return model, dict(input_ids=ids, pixel_values=pixels), None
    if kind == "bert":
        # Without dropout, like the engine.
        model = t.BertModel._from_config(t.BertConfig(
            **rest, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        ids = torch.randint(3, 30000, (batch, case["tokens"]))
        mask = torch.ones_like(ids)
        return model, dict(input_ids=ids, attention_mask=mask), lambda out: (
            (out.last_hidden_state * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
    inputs = dict(pixel_values=torch.randn(batch, 3, 224, 224))
    if kind == "resnet":
        model = t.ResNetModel._from_config(t.ResNetConfig(**rest))
    else:
        model = t.EfficientNetModel._from_config(t.EfficientNetConfig(
            **rest, drop_connect_rate=0.0, dropout_rate=0.0))
    return model, inputs, lambda out: out.last_hidden_state.mean((2, 3))


def torch_step_times(case, fused, encode, bfloat16):
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model, inputs, embed = torch_model(case)
    batch = case["batch"]
    labels = torch.arange(batch) // 2
    metric = NTXentLoss()
    model.train(not encode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused or None)
    times = []
    for step in range(case["steps"] + 2):
        started = time.perf_counter()
        if encode:
            with torch.inference_mode():
                model(**inputs)
            forward = backward = whole = time.perf_counter()
        else:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                if embed is None:
                    loss = model(**inputs, return_loss=True).loss
                else:
                    loss = metric(embed(model(**inputs)).float(), labels)
            forward = time.perf_counter()
            loss.backward()
            backward = time.perf_counter()
            optimizer.step()
            whole = time.perf_counter()
        if step >= 2:
            times.append((whole - started, forward - started, backward - forward, whole - backward))
    parts = [statistics.median(part) for part in zip(*times)]
    print(json.dumps(dict(
        zip(["step", "forward", "backward", "optimizer"], parts),
        examples_per_second=batch / parts[0],
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )))


def run(command):
    # The second environment is that of the server's workers.
    environment = dict(os.environ, RAYON_NUM_THREADS=str(THREADS), MIMALLOC_PURGE_DELAY="-1")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name, case, args, folder):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    config = Path(folder) / f"{name}.json"
    config.write_text(json.dumps(case["config"]))
    ours = [target / "release/examples/train_speed", "--config", config,
            "--batch-size", str(case["batch"]), "--steps", str(case["steps"])]
    ours += ["--tokens", str(case["tokens"])] if "tokens" in case else []
    torch = [sys.executable, __file__, "--case", name]
    for flag in ("encode", "bfloat16"):
        if getattr(args, flag):
            ours, torch = [*ours, f"--{flag}"], [*torch, f"--{flag}"]
    engines = {"finetuner": ours, "torch, stock": [*torch, "--torch", "stock"]}
    if not args.encode:
        engines["torch, fused AdamW"] = [*torch, "--torch", "fused"]
    results = {engine: [] for engine in engines}
    for _ in range(args.rounds):
        for engine, command in engines.items():
            results[engine].append(run(command))
    what = "only embedding" if args.encode else "training"
    what += " in bfloat16" if args.bfloat16 else ""
    print(f"\n{case['title']}, {what}, {THREADS} threads, median of {args.rounds}")
    print(f"{'':20} {'ex./s':>8} {'ratio':>6} {'forward':>8} {'backward':>8} {'AdamW':>8}"
          f" {'peak MB':>8} {'ratio':>6}")
    middle = {
        engine: {key: statistics.median(r[key] for r in all_) for key in all_[0] if key != "losses"}
        for engine, all_ in results.items()
    }
    stock = middle["torch, stock"]
    for engine, m in middle.items():
        print(f"{engine:20} {m['examples_per_second']:8.2f}"
              f" {m['examples_per_second'] / stock['examples_per_second']:6.2f} {m['forward']:8.3f}"
              f" {m['backward']:8.3f} {m['optimizer']:8.3f} {m['peak_mb']:8.0f}"
              f" {m['peak_mb'] / stock['peak_mb']:6.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--encode", action="store_true")
    what.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--torch", choices=["stock", "fused"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        return torch_step_times(CASES[args.case], args.torch == "fused", args.encode, args.bfloat16)

    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--workspace", "--examples"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            if args.case in (None, name):
                compare(name, case, args, folder)


main()
