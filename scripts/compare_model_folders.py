"""Compares the embeddings of a model folder here and in its own library, for every kind of folder.

    pip install torch transformers sentence-transformers open_clip_torch safetensors numpy pillow
    python scripts/compare_model_folders.py [--model NAME=FOLDER ...] [--settings] [KIND ...]

The script writes small models of every kind with the original libraries; `--model` adds folders of real ones. The
table has the largest difference of an embedding, relative to its length:

- `local`: `finetuner::local` and the library, both with the folder;
- `start`: the folder after training with the smallest learning rate, opened here, and the library with the original
  folder. If this is small, training starts with the correct weights;
- `saved`: the folder after training, opened here and in the library.

With `--settings` the script changes every field in the `config.json` of each network, one at a time, and compares the
embeddings of both: fields that are ignored here are printed.

`PROFILE=debug` uses the debug build of the engine's examples. Fails if a difference is above 1e-5.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from PIL import Image
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

tf.logging.set_verbosity_error()
ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "crates/engine/tests/fixtures"
NETWORK = FIXTURES / "sentence/network"
TEXTS = ["a long red dress", "White running SHOE", "the blue boat, on a lake of the north", "7 Kleider"]
# No JPEG, because two decoders may differ by one level.
PICTURES = [FIXTURES / "pictures" / name for name in ("wide.png", "tall.png", "exact.png")]
LIMIT = 1e-5
KINDS = {}
BUILT = set()


def kind(name):
    def add(make):
        KINDS[name] = make
        return make
    return add


def read(path):
    return json.loads(Path(path).read_text())


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def edit(path, **fields):
    write(path, {**(read(path) if path.exists() else {}), **fields})


def example(name, *arguments):
    """Runs an example of the engine, which is built before its first use."""
    profile = os.environ.get("PROFILE", "release")
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "examples" / name
    if name not in BUILT:
        flags = ["--release"] if profile == "release" else []
        subprocess.run(["cargo", "build", *flags, "-q", "-p", "finetuner-engine", "--example", name], check=True, cwd=ROOT)
        BUILT.add(name)
    done = subprocess.run([program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[:500])


# ---- Folders ----

def sentence(folder, base="pooling-mean"):
    """Writes a small BERT of sentence-transformers."""
    shutil.copytree(NETWORK, folder, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "sentence" / base, folder, dirs_exist_ok=True)


def tensors(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


for base in sorted(path.name for path in (FIXTURES / "sentence").iterdir() if (path / "modules.json").exists()):
    KINDS[f"sentence-transformers: {base}"] = lambda folder, base=base: sentence(folder, base)


@kind("no modules.json")
def _(folder):
    shutil.copytree(NETWORK, folder, dirs_exist_ok=True)
    for file in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / file).unlink(missing_ok=True)


@kind("do_lower_case")
def _(folder):
    sentence(folder)
    tokenizer = read(folder / "tokenizer.json")
    tokenizer["normalizer"] = None
    write(folder / "tokenizer.json", tokenizer)
    edit(folder / "sentence_bert_config.json", do_lower_case=True)


@kind("model_max_length")
def _(folder):
    sentence(folder)
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", model_max_length=6)


@kind("0_Transformer")
def _(folder):
    sentence(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = read(folder / "modules.json")
    modules[0]["path"] = "0_Transformer"
    write(folder / "modules.json", modules)
    write(folder / "config.json", {"__version__": "0.3.8"})


@kind("vocab.txt alone")
def _(folder):
    sentence(folder)
    vocabulary = read(folder / "tokenizer.json")["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.get)))
    (folder / "tokenizer.json").unlink()


def in_shards(folder, suffix, save):
    all_tensors = load_file(folder / "model.safetensors")
    names = sorted(all_tensors)
    whole = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{whole}-{number:05}-of-00002.{suffix}"
        save({name: all_tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write(folder / f"{whole}.{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


@kind("shards of safetensors")
def _(folder):
    sentence(folder)
    in_shards(folder, "safetensors", lambda part, path: save_file(part, path, {"format": "pt"}))


@kind("shards of PyTorch")
def _(folder):
    sentence(folder)
    in_shards(folder, "bin", torch.save)


@kind("pytorch_model.bin")
def _(folder):
    sentence(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
    @kind(f"weights in {name}")
    def _(folder, name=name, dtype=dtype):
        sentence(folder)
        tensors(folder, lambda all: {key: value.to(dtype) for key, value in all.items()})
        edit(folder / "config.json", dtype=name)


@kind("old names and another head")
def _(folder):
    sentence(folder)

    def old(name):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return f"bert.{name}"
    rows = read(folder / "config.json")["max_position_embeddings"]
    tensors(folder, lambda all: {old(key): value for key, value in all.items()} | {
        "bert.embeddings.position_ids": torch.arange(rows)[None], "cls.predictions.bias": torch.zeros(3)})
    edit(folder / "config.json", architectures=["BertForMaskedLM"])


@kind("Infinity and NaN in JSON")
def _(folder):
    sentence(folder)
    text = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(f'{text}, "some": Infinity, "more": [NaN, -Infinity]}}')


def architecture(name, config, model):
    @kind(f"network: {name}")
    def _(folder):
        sentence(folder)
        torch.manual_seed(0)
        network = model(config()).eval()
        with torch.no_grad():  # With biases of zero and norms of one, errors could remain hidden.
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for file in ("config.json", "model.safetensors"):
            (folder / file).unlink()
        network.save_pretrained(folder)


ROWS = read(NETWORK / "config.json")["vocab_size"]
SIZES = dict(vocab_size=ROWS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
             max_position_embeddings=64)
IDS = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)
architecture("BERT", lambda: tf.BertConfig(**SIZES), tf.BertModel)
architecture("DistilBERT", lambda: tf.DistilBertConfig(vocab_size=ROWS, dim=32, n_layers=2, n_heads=2, hidden_dim=48,
                                                      max_position_embeddings=64), tf.DistilBertModel)
architecture("RoBERTa", lambda: tf.RobertaConfig(**SIZES, **IDS), tf.RobertaModel)
architecture("XLM-RoBERTa", lambda: tf.XLMRobertaConfig(**SIZES, **IDS), tf.XLMRobertaModel)
architecture("MPNet", lambda: tf.MPNetConfig(**SIZES), tf.MPNetModel)
architecture("ModernBERT", lambda: tf.ModernBertConfig(**SIZES, **IDS, cls_token_id=2, sep_token_id=3, local_attention=4),
             tf.ModernBertModel)
architecture("NomicBERT", lambda: tf.NomicBertConfig(**SIZES, **IDS), tf.NomicBertModel)
architecture("T5 encoder", lambda: tf.T5Config(vocab_size=ROWS, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
                                               feed_forward_proj="gated-gelu"), tf.T5EncoderModel)
architecture("Qwen3", lambda: tf.Qwen3Config(**SIZES, **IDS, head_dim=16, num_key_value_heads=1), tf.Qwen3Model)
architecture("Gemma 3", lambda: tf.Gemma3TextConfig(**SIZES, **IDS, head_dim=16, num_key_value_heads=1, sliding_window=4,
                                                    use_bidirectional_attention=True), tf.Gemma3TextModel)


def clip(folder):
    """Writes a small CLIP with the tokenizer of the fixtures."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, projection_dim=16)
    end = ROWS - 1
    model = tf.CLIPModel(tf.CLIPConfig(
        text_config=dict(**sizes, vocab_size=ROWS, max_position_embeddings=64, bos_token_id=2, eos_token_id=3),
        vision_config=dict(**sizes, image_size=32, patch_size=8), projection_dim=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NETWORK / file, folder / file)
    write(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
                                               "crop_size": {"height": 32, "width": 32}})


KINDS["CLIP"] = clip


@kind("CLIP: text_config_dict, vision_config_dict")
def _(folder):
    clip(folder)
    config = read(folder / "config.json")
    config |= {"text_config_dict": config["text_config"], "vision_config_dict": config["vision_config"],
               "text_config": None, "vision_config": None}
    write(folder / "config.json", config)


for name, fields in {
    "size with height and width": {"size": {"height": 32, "width": 32}},
    "size as a number": {"size": 32, "crop_size": 32},
    "do_normalize false": {"do_normalize": False},
    "do_rescale false": {"do_rescale": False},
    "rescale_factor": {"rescale_factor": 1 / 127.5},
    "do_center_crop false": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "use_square_size": {"use_square_size": True},
    **{f"resample {n} ({word})": {"resample": n} for n, word in enumerate(
        ["nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming"])},
}.items():
    @kind(f"pictures: {name}")
    def _(folder, fields=fields):
        clip(folder)
        edit(folder / "preprocessor_config.json", **fields)


@kind("open_clip")
def _(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(FIXTURES / "open-clip" / file, folder / file)
    rows = read(folder / "open_clip_config.json")["model_cfg"]["text_cfg"]["vocab_size"]
    words = sorted({word for text in TEXTS for word in text.replace(",", " , ").split()})
    # As in every CLIP, the end of a text is the highest token.
    ids = {"[UNK]": 0, **{word: number for number, word in enumerate(words, 1)}, "<start>": rows - 2, "<end>": rows - 1}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<start>", "<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", rows - 2), ("<end>", rows - 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def spread(model):
    """Fills biases and norms with random values: with zeros and ones, errors could remain hidden."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


VISION = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)


def pictures_alone(name, config, model, processor):
    @kind(f"network: {name}")
    def _(folder):
        torch.manual_seed(0)
        spread(model(config())).save_pretrained(folder)
        write(folder / "preprocessor_config.json", processor)


pictures_alone("ViT", lambda: tf.ViTConfig(**VISION, intermediate_size=48), tf.ViTModel,
               {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}})
# Smaller images than the positions allow, as with the published models.
pictures_alone("DINOv2", lambda: tf.Dinov2Config(**{**VISION, "image_size": 48}, mlp_ratio=2), tf.Dinov2Model,
               {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36}, "resample": 3,
                "crop_size": {"height": 32, "width": 32}, "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225]})


@kind("network: SigLIP")
def _(folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "siglip" / file, folder / file)
    rows = max(read(folder / "tokenizer.json")["model"]["vocab"].values()) + 1
    torch.manual_seed(0)
    config = tf.SiglipConfig(text_config={**TEXT, "vocab_size": rows, "max_position_embeddings": 12},
                             vision_config={**VISION, "intermediate_size": 48})
    spread(tf.SiglipModel(config)).save_pretrained(folder)
    write(folder / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor",
                                               "size": {"height": 32, "width": 32}})


def dual_encoder(name, vision, text, processor):
    @kind(f"network: {name}")
    def _(folder):
        torch.manual_seed(0)
        config = tf.VisionTextDualEncoderConfig.from_vision_text_configs(vision(), text(), projection_dim=16)
        spread(tf.VisionTextDualEncoderModel(config=config)).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(NETWORK / file, folder / file)
        write(folder / "preprocessor_config.json", processor)


dual_encoder("ViT and BERT as a dual encoder", lambda: tf.ViTConfig(**VISION, intermediate_size=48),
             lambda: tf.BertConfig(**SIZES),
             {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}})
dual_encoder("CLIP's tower and XLM-RoBERTa as a dual encoder", lambda: tf.CLIPVisionConfig(**VISION, intermediate_size=48),
             lambda: tf.XLMRobertaConfig(**SIZES, **IDS),
             {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
              "crop_size": {"height": 32, "width": 32}})


# ---- Embeddings ----

def pixels(folder):
    processor = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(images=[Image.open(path).convert("RGB") for path in PICTURES], return_tensors="pt").pixel_values


def vision_alone(folder):
    model = tf.AutoModel.from_pretrained(folder).float().eval()
    with torch.no_grad():
        return {"image_embeds": model(pixel_values=pixels(folder)).last_hidden_state[:, 0].numpy()}


def siglip(folder):
    model = tf.SiglipModel.from_pretrained(folder).float().eval()
        # As in training: the model reads the padding, so there is no mask.
    ids = tf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding="max_length", truncation=True, return_tensors="pt",
                                                   max_length=model.config.text_config.max_position_embeddings).input_ids
    with torch.no_grad():
        return {"text_embeds": model.get_text_features(input_ids=ids).pooler_output.numpy(),
                "image_embeds": model.get_image_features(pixel_values=pixels(folder)).pooler_output.numpy()}


def towers(folder):
    model = tf.VisionTextDualEncoderModel.from_pretrained(folder).float().eval()
    tokens = tf.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, max_length=64,
                                                      return_token_type_ids=False, return_tensors="pt")
    with torch.no_grad():
        return {"text_embeds": model.text_projection(model.text_model(**tokens).pooler_output).numpy(),
                "image_embeds": model.visual_projection(model.vision_model(pixels(folder)).pooler_output).numpy()}


LIBRARIES = {"vit": vision_alone, "dinov2": vision_alone, "siglip": siglip, "vision-text-dual-encoder": towers}


def theirs(folder):
    """Returns the embeddings of the folder's own library."""
    config = read(folder / "config.json") if (folder / "config.json").exists() else {}
    if (folder / "open_clip_config.json").exists():
        return open_clip(folder)
    if library := LIBRARIES.get(config.get("model_type")):
        return library(folder)
    if config.get("model_type") == "clip":
        model = tf.CLIPModel.from_pretrained(folder).float().eval()
        if (folder / "tokenizer_config.json").exists():
            tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        else:
            tokenizer = tf.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[UNK]")
        longest = model.config.text_config.max_position_embeddings
        tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=longest,
                           return_token_type_ids=False, return_tensors="pt")
        with torch.no_grad():
            return {
                "text_embeds": model.text_projection(model.text_model(**tokens).pooler_output).numpy(),
                "image_embeds": model.visual_projection(model.vision_model(pixels(folder)).pooler_output).numpy(),
            }
    from sentence_transformers import SentenceTransformer
    return {"text_embeds": SentenceTransformer(str(folder), device="cpu").float().encode(TEXTS)}


def open_clip(folder):
    import open_clip as library
    from tokenizers import Tokenizer
    model, _, steps = library.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    length = read(folder / "open_clip_config.json")["model_cfg"]["text_cfg"]["context_length"]
    tokenizer.enable_truncation(length)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    pictures = torch.stack([steps(Image.open(path)) for path in PICTURES])
    with torch.no_grad():
        return {"text_embeds": model.eval().encode_text(tokens).numpy(), "image_embeds": model.encode_image(pictures).numpy()}


def has_pictures(folder):
    return any((folder / file).exists() for file in ("preprocessor_config.json", "open_clip_config.json"))


def has_texts(folder):
    return any((folder / file).exists() for file in ("tokenizer.json", "modules.json", "vocab.txt"))


def ours(folder):
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "embeddings.safetensors"
        arguments = [f"--text={text}" for text in TEXTS] if has_texts(folder) else []
        if has_pictures(folder):
            arguments += itertools.chain(*(("--picture", path) for path in PICTURES))
        example("embed", folder, output, *arguments)
        return load_numpy(output)


def field(number, data):
    """Encodes a protobuf field of bytes."""
    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)
    return varint(number << 3 | 2) + varint(len(data)) + data


def documents(rows):
    """Encodes texts with labels in the format of docarray 0.x."""
    out = b"\x01" + struct.pack(">Q", len(rows))
    for text, label in rows:
        tag = field(1, b"finetuner_label") + field(2, field(3, label.encode()))
        document = gzip.compress(field(4, text.encode()) + field(17, field(1, tag)))
        out += struct.pack(">I", len(document)) + document
    return out


def train(folder, to, rate):
    """Trains for one epoch and unpacks the saved model into `to`."""
    saved = to / "saved.zip"
    hyper = {"learning_rate": rate, "batch_size": 4, "epochs": 1, "loss": "TripletMarginLoss", "optimizer": "Adam"}
    if has_pictures(folder):
        loss = "CLIPLoss" if has_texts(folder) else "TripletMarginLoss"
        task = "fashion" if has_texts(folder) else "image-to-image"
        hyper |= {"batch_size": 8, "loss": loss, "scheduler": None, "optimizer_options": {}}
        example("quality", task, "--model", folder, "--seeds", 1, "--model-settings",
                json.dumps({"freeze": False, "options": {"augmentation": "none"}}), "--hyper", json.dumps(hyper), "--keep", saved)
    else:
        rows = [("a red dress", "dress"), ("a long dress", "dress"), ("a white shoe", "shoe"), ("running shoe", "shoe")]
        config, data = to / "config.json", to / "train.da"
        data.write_bytes(documents(rows))
        write(config, {"run_name": "run", "experiment_name": "e", "model": {"name": str(folder)}, "callbacks": [],
                       "data": {"train_data": "train"}, "hyper_parameters": hyper})
        example("fine_tune", config, data, saved)
    zipfile.ZipFile(saved).extractall(to)
    return next(path for path in to.iterdir() if (path / "config.json").exists())


def difference(found, expected):
    if set(expected) - set(found):
        return float("inf")
    worst = 0.0
    for name, rows in expected.items():
        if found[name].shape != rows.shape:
            return float("inf")
        apart = np.linalg.norm(found[name] - rows, axis=1) / np.linalg.norm(rows, axis=1)
        worst = max(worst, float(apart.max()))
    return worst


def compare(folder):
    expected = theirs(folder)
    local = difference(ours(folder), expected)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        # The smallest allowed rate: the weights do not change.
        start = difference(ours(train(folder, Path(first), 1e-12)), expected)
        saved = train(folder, Path(second), 1e-3)
        after = difference(ours(saved), theirs(saved))
    return local, start, after


# Fields that do not describe the network, or that no library accepts with another value.
NOT_CHANGED = {"architectures", "transformers_version", "model_type", "dtype", "id2label", "label2id", "vocab_size"}
# Fields that a config.json may contain although the library does not write them.
FURTHER = {"is_decoder": False, "is_causal": None, "add_cross_attention": False, "use_bidirectional_attention": None,
           "tie_word_embeddings": True, "sliding_window": None, "attn_logit_softcapping": None, "hidden_act": "gelu"}
CHANGED = {"position_embedding_type": ["relative_key"], "rope_scaling": [{"rope_type": "linear", "factor": 2.0}],
           "quantization_config": [{"quant_method": "gptq", "bits": 4}], "pruned_heads": [{"0": [1]}]}


def other_values(name, value):
    if name in CHANGED:
        return CHANGED[name]
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [True, 0.5, 2]
    if isinstance(value, int):
        return [value + 1, 1, 0]
    if isinstance(value, float):
        return [value * 3 + 0.1]
    if isinstance(value, str):
        return ["relu", "gelu_new", "gated-gelu"] if "act" in name or "proj" in name else ["another"]
    if isinstance(value, dict):
        return [{**value, key: new} for key, old in value.items() for new in other_values(key, old)]
    return [value[::-1]]


def attempt(embed, folder):
    try:
        return embed(folder)
    except Exception as error:
        return " ".join(str(error).split())[:160]


def settings(name, folder):
    """Checks that every change of a field gives the same embeddings in both."""
    written = read(folder / "config.json")
    every = FURTHER | dict.fromkeys(CHANGED) | tf.AutoConfig.from_pretrained(folder).to_dict() | written
    good, changes = True, 0
    for field_name, value in every.items():
        for new in [] if field_name in NOT_CHANGED else other_values(field_name, value):
            write(folder / "config.json", written | {field_name: new})
            expected = attempt(theirs, folder)
            if isinstance(expected, str):
                continue
            changes += 1
            found = attempt(ours, folder)
            if not isinstance(found, str) and difference(found, expected) > LIMIT:
                good = False
                print(f"{name}: `{field_name}` {new}: {difference(found, expected):.1e}", flush=True)
    print(f"{name}: {changes} changes that the library accepts", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="parts of the names of the kinds to compare; all by default")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--settings", action="store_true")
    options = parser.parse_args()
    made = {name: make for name, make in KINDS.items() if not options.kinds or any(part in name for part in options.kinds)}
    for given in options.model:
        name, _, path = given.partition("=")
        made[name] = lambda folder, path=path: shutil.copytree(path, folder, dirs_exist_ok=True)
    if options.settings:
        made = {name: make for name, make in made.items() if name.startswith("network:")}
        good = True
        for name, make in made.items():
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder))
                good &= settings(name, Path(folder))
        sys.exit(0 if good else "too different")
    print("| folder | local | training's start | saved, in Python |\n| --- | --- | --- | --- |")
    bad = False
    for name, make in made.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            make(folder)
            try:
                found = compare(folder)
                bad |= not max(found) <= LIMIT
                print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in found) + " |", flush=True)
            except Exception as error:
                bad = True
                print(f"| {name} | {type(error).__name__}: {' '.join(str(error).split())[:300]} |", flush=True)
    sys.exit("too different" if bad else 0)


main()
