"""Opens a model that a run has saved with `transformers`, or a text model with
sentence-transformers, and compares what it makes of some pictures and texts
with what the engine makes of them.

    pip install torch transformers sentence-transformers safetensors numpy pillow
    python scripts/check_saved_model.py clip-model

Ends with an error where the embeddings differ by more than 1e-4. The tensors
that the comparison runs on are made by transformers' own tokenizer and picture
processor; the engine starts from the texts and the files.
"""

import json

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

DATA = Path(__file__).parent.parent / "datasets/emoji-clip"
LIMIT = 1e-4


def clip(folder, texts, pictures):
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


def text_model(folder, texts):
    from sentence_transformers import SentenceTransformer

    return {"text_embeds": torch.tensor(SentenceTransformer(str(folder), device="cpu").encode(texts))}


def main():
    folder = Path(sys.argv[1])
    rows = [line.split(",") for line in (DATA / "fashion/eval.csv").read_text().splitlines()]
    pictures = [DATA / picture for picture, _ in rows]
    texts = [text for _, text in rows]
    kind = json.loads((folder / "config.json").read_text()).get("model_type", "clip")
    if kind == "clip":
        expected_by_name = clip(folder, texts, pictures)
    else:
        pictures = []
        expected_by_name = text_model(folder, texts)

    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "embeddings.safetensors"
        arguments = [x for t in texts for x in ("--text", t)]
        arguments += [x for p in pictures for x in ("--picture", p)]
        subprocess.run(
            ["cargo", "run", "--release", "--quiet", "-p", "finetuner-engine",
             "--example", "embed", "--", folder, output, *arguments],
            check=True,
        )
        found = load_file(output)

    bad = False
    for name, expected in expected_by_name.items():
        by_row = (found[name] - expected).norm(dim=1) / expected.norm(dim=1)
        bad |= not by_row.max().item() <= LIMIT
        print(f"{name}: {len(by_row)} rows, largest difference {by_row.max().item():.1e}")
    sys.exit("too different" if bad else 0)


main()
