"""Compares the engine with transformers at the full size of
`openai/clip-vit-base-patch32`, with random weights: embeddings, loss, every
gradient, and the losses of ten AdamW steps.

    pip install torch transformers safetensors numpy
    python scripts/check_full_size.py

Needs about 6 GB of memory and a few minutes. Fails if a difference is too
large.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

BATCH, TOKENS, STEPS, RATE = 4, 77, 10, 1e-5
# Compared values, and the relative difference that is allowed.
LIMITS = {"image_embeds": 1e-4, "text_embeds": 1e-4, "loss": 1e-5, "grad": 1e-3, "losses": 1e-3}


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def main():
    torch.manual_seed(0)
    model = CLIPModel._from_config(CLIPConfig(), attn_implementation="eager")
    with torch.no_grad():  # With biases of zero and norms of one, errors could remain hidden.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    text = model.config.text_config
    ids = torch.randint(1, text.vocab_size - 2, (BATCH, TOKENS))
    for row in range(BATCH):
        ids[row, TOKENS - 1 - 9 * row] = text.eos_token_id
    side = model.config.vision_config.image_size
    given = dict(input_ids=ids, pixel_values=torch.randn(BATCH, 3, side, side))

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model.save_pretrained(folder / "model")
        inputs, outputs = folder / "inputs.safetensors", folder / "outputs.safetensors"
        save_file({k: v.float().contiguous() for k, v in given.items()}, inputs)
        subprocess.run(
            ["cargo", "run", "--release", "--quiet", "-p", "finetuner-engine",
             "--example", "one_batch", "--", folder / "model", inputs, outputs,
             "--steps", str(STEPS), "--learning-rate", str(RATE)],
            check=True,
        )
        found = load_file(outputs)

    expected = {
        "text_embeds": model.text_projection(model.text_model(ids).pooler_output),
        "image_embeds": model.visual_projection(
            model.vision_model(given["pixel_values"]).pooler_output
        ),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**given, return_loss=True).loss
        loss.backward()
        if step == 0:
            expected["loss"] = loss.detach().reshape(1)
            expected |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    expected["losses"] = torch.tensor(losses)

    # The bias of the keys does not change attention, so its gradient is noise.
    names = [name for name in expected if not name.endswith("k_proj.bias")]
    worst = {}
    for name in names:
        kind = name.split(".")[0]
        worst[kind] = max(worst.get(kind, (0.0, "")), (relative(found[name], expected[name]), name))
    bad = False
    for kind, (difference, name) in worst.items():
        bad |= not difference <= LIMITS[kind]
        print(f"{kind:13} {difference:.1e} of {LIMITS[kind]:.0e} allowed   {name}")
    print("losses there", [round(x, 5) for x in losses])
    print("losses here ", [round(x, 5) for x in found["losses"].tolist()])
    sys.exit("too different" if bad else 0)


main()
