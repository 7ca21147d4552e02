"""Training speed beside PyTorch: the same shapes, batches and optimizer, two
threads each, in turns, so that both meet the same moods of the machine.

    pip install torch transformers
    python scripts/bench_training.py [--rounds 3] [--case small|full]

Prints pairs per second (the median of the rounds), the ratio, and the peak of
the memory. PyTorch runs as most people run it: `transformers` with its default
attention and `torch.optim.AdamW` ("stock"), and with the fused AdamW.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = ROOT / "crates/engine/assets/clip-small/config.json"
CASES = {
    "small": dict(title="clip-small, batch 32", config=SMALL, batch=32, steps=20),
    "full": dict(title="clip-vit-base-patch32, batch 8", config=None, batch=8, steps=5),
}
THREADS = 2


def torch_step_times(case, fused):
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = CLIPConfig()
    if case["config"]:
        config = CLIPConfig(**json.loads(Path(case["config"]).read_text()))
    model = CLIPModel._from_config(config).train()
    text, batch = config.text_config, case["batch"]
    ids = torch.randint(3, text.vocab_size - 3, (batch, text.max_position_embeddings))
    ids[:, -1] = text.eos_token_id
    side = config.vision_config.image_size
    pixels = torch.randn(batch, 3, side, side)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused or None)
    times = []
    for step in range(case["steps"] + 2):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
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
        pairs_per_second=batch / parts[0],
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )))


def run(command):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(THREADS))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--torch", choices=["stock", "fused"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        return torch_step_times(CASES[args.case], args.torch == "fused")

    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "-p", "finetuner-engine",
         "--example", "train_speed"], cwd=ROOT, check=True,
    )
    for name, case in CASES.items():
        if args.case not in (None, name):
            continue
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        ours = [target / "release/examples/train_speed",
                "--batch-size", str(case["batch"]), "--steps", str(case["steps"])]
        ours += ["--config", case["config"]] if case["config"] else []
        torch = [sys.executable, __file__, "--case", name, "--torch"]
        engines = {
            "finetuner": ours, "torch, stock": [*torch, "stock"], "torch, fused AdamW": [*torch, "fused"],
        }
        results = {engine: [] for engine in engines}
        for _ in range(args.rounds):
            for engine, command in engines.items():
                results[engine].append(run(command))
        print(f"\n{case['title']}, {THREADS} threads, median of {args.rounds}")
        print(f"{'':20} {'pairs/s':>8} {'ratio':>6} {'forward':>8} {'backward':>8} {'AdamW':>8} {'peak MB':>8}")
        middle = {
            engine: {key: statistics.median(r[key] for r in all_) for key in all_[0] if key != "losses"}
            for engine, all_ in results.items()
        }
        for engine, m in middle.items():
            ratio = m["pairs_per_second"] / middle["torch, stock"]["pairs_per_second"]
            print(f"{engine:20} {m['pairs_per_second']:8.2f} {ratio:6.2f} {m['forward']:8.3f}"
                  f" {m['backward']:8.3f} {m['optimizer']:8.3f} {m['peak_mb']:8.0f}")


main()
