"""Compares cross-encoders of the engine with CrossEncoder of sentence-transformers: the scores of folders that either
has saved, and the scores of the engine's ONNX models in onnxruntime. Without folders it compares the fixtures. Fails if
scores differ by more than 1e-5, or by more than 0.05 in 8 bits.

    pip install sentence-transformers==6.2.0 transformers==5.24.0 torch==2.15.0 onnxruntime
    python scripts/check_cross_encoders.py [FOLDER ...]

Both can open a folder that `Run::save_model` wrote.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import torch
from sentence_transformers import CrossEncoder

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates/engine/tests/fixtures/cross-encoders"
QUERY = "what is a long red dress ?"
TEXTS = ["a long red dress", "the blue boat on the lake with a small hat", "white shoe", "hat"]
LIMITS = {"float32": 1e-5, "int8": 0.05}


def build():
    """Returns the program. `CHECK_SCORES` can name one that is already built."""
    if "CHECK_SCORES" in os.environ:
        return os.environ["CHECK_SCORES"]
    subprocess.run(["cargo", "build", "--release", "-p", "finetuner-engine", "--example", "cross_encoder_scores"],
                   check=True, cwd=ROOT)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/cross_encoder_scores"


def by_onnx(model, file):
    """Returns the scores of an ONNX model after the activation of the Python model."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    features = model.tokenizer([QUERY] * len(TEXTS), TEXTS, padding=True, truncation="longest_first", return_tensors="np")
    wanted = [given.name for given in session.get_inputs()]
    zeros = numpy.zeros_like(features["input_ids"])
    [logits] = session.run(["logits"], {name: features.get(name, zeros) for name in wanted})
    scores = model.activation_fn(torch.tensor(logits)).numpy()
    return scores[:, 0] if scores.shape[1] == 1 else scores


def main():
    program = build()
    bad = False
    folders = [Path(folder) for folder in sys.argv[1:]] or sorted(path for path in FIXTURES.iterdir() if path.is_dir())
    for folder in folders:
        model = CrossEncoder(str(folder), device="cpu")
        expected = model.predict([(QUERY, text) for text in TEXTS])
        with tempfile.TemporaryDirectory() as onnx:
            done = subprocess.run([program, folder, "--onnx", onnx, QUERY, *TEXTS], check=True, capture_output=True)
            found = {"engine": numpy.array(json.loads(done.stdout)).reshape(expected.shape)}
            for form in LIMITS:
                found[form] = by_onnx(model, f"{onnx}/{form}/model.onnx")
        for name, scores in found.items():
            worst = abs(scores - expected).max()
            is_bad = not worst < LIMITS.get(name, 1e-5)
            bad |= is_bad
            print(f"{folder.name:20} {name:8} {worst:.1e}{' BAD' if is_bad else ''}")
    if bad:
        sys.exit("they differ")


if __name__ == "__main__":
    main()
