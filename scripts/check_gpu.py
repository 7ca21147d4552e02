"""Compares a GPU with the CPU of the same machine and with PyTorch on the same GPU: exactness, examples per second and
memory for CLIP ViT-B/32, BERT-base, MiniLM-L6 and ResNet-50, all with random weights.

    cargo build --release -p finetuner-engine --features cuda --example device_check   # on a machine with nvcc
    pip install torch transformers                                                     # on the GPU machine
    python scripts/check_gpu.py --binary target/release/examples/device_check

The binary needs NVIDIA's driver and the CUDA libraries cuBLAS and cuRAND; the script finds those of PyTorch. The whole
table takes less than ten minutes on a recent GPU. PyTorch trains under `torch.autocast` in bfloat16 with its fused
AdamW and scaled dot-product attention. Both sides get texts of the same lengths, PyTorch with padding.

    python scripts/check_gpu.py --device cpu --small    # tests the script itself, on any machine

The last line and the exit code say whether all exactness checks passed.
"""

import argparse
import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BERT = dict(model_type="bert")
MINILM = dict(model_type="bert", hidden_size=384, intermediate_size=1536, num_hidden_layers=6,
              num_attention_heads=12, vocab_size=30522)
CASES = {
    "clip": dict(title="CLIP ViT-B/32", config=dict(model_type="clip"), batch=128),
    "bert": dict(title="BERT-base, up to 128 tokens", config=BERT, batch=64, tokens=128),
    "minilm": dict(title="MiniLM-L6, up to 128 tokens", config=MINILM, batch=128, tokens=128),
    "resnet": dict(title="ResNet-50", config=dict(model_type="resnet"), batch=64),
}
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
SMALL = {
    "clip": dict(model_type="clip", projection_dim=16,
                 text_config=dict(TINY, vocab_size=100, max_position_embeddings=16, eos_token_id=99),
                 vision_config=dict(TINY, image_size=32, patch_size=8)),
    "bert": dict(BERT, **TINY, vocab_size=100),
    "minilm": dict(BERT, **TINY, vocab_size=100),
    "resnet": dict(model_type="resnet", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1]),
}
# Allowed difference of embeddings, the loss and all gradients together from those of the CPU in 32 bits, relative to
# their length. Batch normalization loses digits.
LIMITS = {"embeddings": 1e-4, "loss": 1e-4, "gradients": 1e-3}
PRECISIONS = ["float32", "tf32", "bfloat16"]


def environment():
    """Returns the environment with the CUDA libraries that pip installed with PyTorch."""
    folders = [path for site in sys.path for path in glob.glob(f"{site}/nvidia/*/lib")]
    known = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ, LD_LIBRARY_PATH=":".join([*folders, *([known] if known else [])]))


class Memory:
    """Measures the peak GPU memory in use while a command runs, minus the memory in use before."""

    def __init__(self, on_gpu):
        self.on_gpu, self.most, self.ended = on_gpu, 0, threading.Event()
        self.before = self.used() if on_gpu else 0

    @staticmethod
    def used():
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])

    def watch(self):
        while not self.ended.wait(0.1):
            self.most = max(self.most, self.used())

    def __enter__(self):
        if self.on_gpu:
            self.thread = threading.Thread(target=self.watch)
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        if self.on_gpu:
            self.thread.join()

    def peak_mb(self):
        return self.most - self.before


def run(command, on_gpu, timeout):
    """Returns the last line of a command's output and the peak GPU memory, or the reason of its failure."""
    with Memory(on_gpu) as memory:
        try:
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                                  env=environment(), timeout=timeout)
        except subprocess.TimeoutExpired:
            return dict(failed=f"no answer within {timeout} s")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return dict(failed=reason[:200])
    found = json.loads(done.stdout.splitlines()[-1])
    if on_gpu:
        found["peak_mb"] = memory.peak_mb()
    return found


def lengths(batch, number, longest):
    """Returns a length between half and the whole, as in `device_check`."""
    return [longest - (i * 37 + number) % max(longest // 2, 1) for i in range(batch)]


def torch_side(case, device, steps):
    """Does the same as the binary in PyTorch, and prints the time of a step in the same format."""
    import torch
    import transformers as t
    from torch.nn.functional import cross_entropy, normalize

    torch.manual_seed(0)
    batch, config = case["batch"], dict(case["config"])
    kind = config.pop("model_type")
    if kind == "clip":
        model = t.CLIPModel._from_config(t.CLIPConfig(**config), attn_implementation="sdpa")
        text, vision = model.config.text_config, model.config.vision_config
        ids = torch.randint(3, text.vocab_size - 3, (batch, text.max_position_embeddings))
        ids[:, -1] = text.eos_token_id
        inputs = dict(input_ids=ids, pixel_values=torch.randn(
            batch, 3, vision.image_size, vision.image_size))
        columns = [inputs]
    elif kind == "bert":
        model = t.BertModel._from_config(t.BertConfig(
            **config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            attn_implementation="sdpa")
        longest = min(case["tokens"], model.config.max_position_embeddings)
        columns = []
        for number in range(2):
            ids = torch.randint(3, model.config.vocab_size - 3, (batch, longest))
            places = torch.arange(longest).expand(batch, -1)
            mask = (places < torch.tensor(lengths(batch, number, longest)).unsqueeze(1)).long()
            columns.append(dict(input_ids=ids, attention_mask=mask))
    else:
        model = t.ResNetModel._from_config(t.ResNetConfig(**config))
        columns = [dict(pixel_values=torch.randn(batch, 3, 224, 224)) for _ in range(2)]
    model = model.to(device).train()
    columns = [{name: x.to(device) for name, x in column.items()} for column in columns]

    def embed(column):
        out = model(**column).last_hidden_state
        if kind == "bert":
            mask = column["attention_mask"].unsqueeze(-1)
            return (out * mask).sum(1) / mask.sum(1)
        return out.mean((2, 3))

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for step in range(steps + 3):
        wait()
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            if kind == "clip":
                loss = model(**columns[0], return_loss=True).loss
            else:
                x, y = (normalize(embed(column).float()) for column in columns)
                loss = cross_entropy(20.0 * x @ y.T, torch.arange(batch, device=device))
        loss.backward()
        optimizer.step()
        loss.item()
        wait()
        if step >= 3:
            times.append(time.perf_counter() - started)
    step = statistics.median(times)
    print(json.dumps(dict(
        step=step, examples_per_second=batch / step,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def ours(args, case, config, *more):
    command = [args.binary, config, "--device", args.device, "--batch-size", case["batch"]]
    command += ["--tokens", case["tokens"]] if "tokens" in case else []
    return [*command, *more]


def exactness(args, case, config, on_gpu):
    few = dict(case, batch=min(case["batch"], 8))
    found = run(ours(args, few, config), on_gpu, 300)
    if "failed" in found:
        print(f"  exactness: FAILED, {found['failed']}", flush=True)
        return False
    parts = {name: found[name] for name in LIMITS}
    passed = all(parts[name] < limit for name, limit in LIMITS.items())
    told = ", ".join(f"{name} {value:.1e}" for name, value in parts.items())
    print(f"  exactness, batch {few['batch']}, float32, compared with the CPU: {told}; the worst gradient"
          f" {found['worst_gradient']:.1e}: {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def speed(args, name, case, config, on_gpu):
    precisions = PRECISIONS if on_gpu else ["float32", "bfloat16"]
    rows = {}
    for precision in precisions:
        more = ["--steps", args.steps, "--precision", precision]
        rows[f"finetuner, {precision}"] = run(ours(args, case, config, *more), on_gpu, 180)
        if precision == "bfloat16" and name != "resnet":
            more.append("--gradient-checkpointing")
            rows["finetuner, bfloat16, checkpointing"] = run(
                ours(args, case, config, *more), on_gpu, 180)
    if not args.no_torch:
        torch = [sys.executable, __file__, "--torch", name, "--device", args.device,
                 "--steps", args.steps, *(["--small"] if args.small else [])]
        rows["torch, bfloat16 autocast"] = run(torch, on_gpu, 180)
    base = rows.get("torch, bfloat16 autocast", {}).get("examples_per_second")
    print(f"  {'':36} {'pairs/s':>9} {'ratio':>6} {'peak MB':>8}")
    for row, found in rows.items():
        if "failed" in found:
            print(f"  {row:36} failed: {found['failed']}")
            continue
        ratio = f"{found['examples_per_second'] / base:6.2f}" if base else f"{'':6}"
        print(f"  {row:36} {found['examples_per_second']:9.1f} {ratio} {found['peak_mb']:8}",
              flush=True)


def main():
    parser = argparse.ArgumentParser()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--binary", default=target / "release/examples/device_check")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny models, to test the script")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--torch", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = {name: dict(case) for name, case in CASES.items() if args.case in (None, name)}
    if args.torch:
        cases = {args.torch: dict(CASES[args.torch])}
    if args.small:
        args.steps = min(args.steps, 3)
        for name, case in cases.items():
            case.update(config=SMALL[name], batch=4, tokens=min(case.get("tokens", 24), 24))
    if args.torch:
        device = "cuda" if args.device == "gpu" else "cpu"
        return torch_side(cases[args.torch], device, args.steps)
    if not Path(args.binary).exists():
        sys.exit(f"{args.binary} is missing: the first lines of this script say how to build it")

    on_gpu = args.device == "gpu"
    if on_gpu:
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        print(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    started, passed = time.time(), True
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            config = Path(folder) / f"{name}.json"
            config.write_text(json.dumps(case["config"]))
            print(f"\n{case['title']}{', small' if args.small else ''}, batch {case['batch']}", flush=True)
            passed &= exactness(args, case, config, on_gpu)
            speed(args, name, case, config, on_gpu)
    print(f"\n{time.time() - started:.0f} s; exactness {'passed' if passed else 'FAILED'}")
    sys.exit(not passed)


main()
