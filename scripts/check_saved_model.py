"""Opens models that a run saved with `transformers` (a CLIP or SigLIP) or sentence-transformers (a text model), and
compares their embeddings of some images and texts with those of the engine.

    pip install torch transformers sentence-transformers safetensors numpy pillow
    python scripts/check_saved_model.py clip-model [another-model ...]
    python scripts/check_saved_model.py --sweep

`--sweep` trains small text models in every combination of modules, pooler, projection head and freezing, and
checks each saved folder. Fails if embeddings differ by more than 1e-4 (images) or 1e-5 (texts). For the comparison,
transformers' own tokenizer and image processor prepare the tensors; the engine starts from the texts and the files.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
DATA = ROOT / "datasets/emoji-clip"
FIXTURES = ROOT / "crates/engine/tests/fixtures/sentence"
LIMITS = {"text_embeds": 1e-5, "image_embeds": 1e-4}
CLIP_LIMIT = 1e-4
# Models of the fixture with the modules after their pooling.
BASES = ["pooling-two", "normalize", "chain", "prompt-left-out-mean"]
POOLERS = [None, "mean", "max", "cls", "weightedmean", "GeM"]
BUILT = set()


def example(name, *arguments):
    """Runs an example of the engine, which is built before its first use."""
    profile = os.environ.get("PROFILE", "release")
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / profile / "examples" / name
    if name not in BUILT:
        flags = ["--release"] if profile == "release" else []
        subprocess.run(["cargo", "build", *flags, "-q", "-p", "finetuner-engine", "--example", name],
                       check=True, cwd=ROOT)
        BUILT.add(name)
    subprocess.run([program, *map(str, arguments)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def clip(folder, texts, pictures):
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor([Image.open(p) for p in pictures], return_tensors="pt").pixel_values
    with torch.no_grad():
        text = model.text_projection(model.text_model(**tokens).pooler_output)
        image = model.visual_projection(model.vision_model(pixels).pooler_output)
    return {"text_embeds": text, "image_embeds": image}


def siglip(folder, texts, pictures):
    from transformers import AutoTokenizer, SiglipModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = SiglipModel.from_pretrained(folder).eval()
    length = model.config.text_config.max_position_embeddings
        # As in training: the model reads the padding, so there is no mask.
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    processor = ViTImageProcessorPil.from_pretrained(folder)
    pixels = processor([Image.open(p).convert("RGB") for p in pictures], return_tensors="pt").pixel_values
    with torch.no_grad():
        text = model.get_text_features(input_ids=tokens.input_ids).pooler_output
        image = model.get_image_features(pixel_values=pixels).pooler_output
    return {"text_embeds": text, "image_embeds": image}


def text_model(folder, texts):
    from sentence_transformers import SentenceTransformer

    return {"text_embeds": torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))}


def differences(folder):
    """Returns the largest relative difference of each kind of embedding."""
    rows = [line.split(",") for line in (DATA / "fashion/eval.csv").read_text().splitlines()]
    pictures = [DATA / picture for picture, _ in rows]
    texts = [text for _, text in rows]
    config = folder / "config.json"
    of_both = {"clip": clip, "siglip": siglip}
    kind = json.loads(config.read_text()).get("model_type") if config.exists() else None
    is_clip = kind in of_both
    if is_clip:
        expected_by_name = of_both[kind](folder, texts, pictures)
    else:
        pictures = []
        expected_by_name = text_model(folder, texts)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "embeddings.safetensors"
        arguments = [x for t in texts for x in ("--text", t)]
        arguments += [x for p in pictures for x in ("--picture", p)]
        example("embed", folder, output, *arguments)
        found = load_file(output)
    for name, expected in expected_by_name.items():
        if found[name].shape != expected.shape:
            yield name, len(expected), float("inf"), 0
            continue
        by_row = (found[name] - expected).norm(dim=1) / expected.norm(dim=1)
        limit = CLIP_LIMIT if is_clip else LIMITS[name]
        yield name, len(by_row), by_row.max().item(), limit


def check(folder, shown):
    """Checks that a folder gives the same embeddings in both."""
    good = True
    for name, rows, difference, limit in differences(folder):
        good &= difference <= limit
        print(f"{shown}: {name}: {rows} rows, largest difference {difference:.1e}", flush=True)
    return good


def sweep():
    good = True
    combinations = itertools.product(BASES, POOLERS, [None, 5], [False, True])
    for base, pooler, dim, freeze in combinations:
        if base == "chain" and pooler:
            # Its Dense takes the output of two poolers.
            continue
        shown = f"{base}, pooler {pooler}, output_dim {dim}, freeze {freeze}"
        with tempfile.TemporaryDirectory() as temporary:
            temporary = Path(temporary)
            model, saved = temporary / "model", temporary / "saved.zip"
            shutil.copytree(FIXTURES / "network", model)
            shutil.copytree(FIXTURES / base, model, dirs_exist_ok=True)
            settings = {"freeze": freeze, "options": {"pooler": pooler} if pooler else {}}
            if dim:
                settings["output_dim"] = dim
            example("quality", "fashion-glossary", "--model", model, "--seeds", 1, "--epochs", 1,
                    "--model-settings", json.dumps(settings), "--keep", saved)
            zipfile.ZipFile(saved).extractall(temporary / "saved")
            folder = next(path for path in (temporary / "saved").iterdir() if path.is_dir())
            if pooler == "GeM":
                alone = not (folder / "modules.json").exists()
                print(f"{shown}: {'no modules.json, as GeM has no counterpart' if alone else 'HAS modules.json'}")
                good &= alone
            else:
                good &= check(folder, shown)
    return good


def main():
    good = sweep() if sys.argv[1:] == ["--sweep"] else all([check(Path(f), f) for f in sys.argv[1:]])
    sys.exit(None if good else "too different")


main()
