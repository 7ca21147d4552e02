#!/usr/bin/env python3
"""Opens an adapter that a run with LoRA saved, with PEFT, and compares its vectors with those of the merged model.

    pip install torch transformers peft sentence-transformers
    cargo run --release --example lora -- BASE SAVED
    python scripts/check_adapter.py BASE SAVED

BASE is the folder of a sentence-transformers model. The adapter applied to it, the merged model in transformers and
the whole saved model in sentence-transformers must give the same vectors.
"""
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

TEXTS = ["something to keep the rain off", "a ring for the finger", "shoes", "a coat of wool that reaches the knees"]


def main():
    base, saved = map(Path, sys.argv[1:3])
    config = json.loads((saved / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "FEATURE_EXTRACTION", config
    tokens = AutoTokenizer.from_pretrained(saved)(TEXTS, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"].unsqueeze(-1)

    def hidden(model):
        with torch.no_grad():
            return model.eval()(**tokens).last_hidden_state * mask

    plain = hidden(AutoModel.from_pretrained(base))
    adapted = hidden(PeftModel.from_pretrained(AutoModel.from_pretrained(base), saved / "adapter"))
    merged = hidden(AutoModel.from_pretrained(saved))
    size = adapted.norm()
    assert (adapted - plain).norm() / size > 1e-3, "the adapter changes nothing"
    error = ((adapted - merged).norm() / size).item()
    print(f"{len(config['target_modules'])} layers of rank {config['r']}: the adapter in PEFT and the merged model differ "
          f"by {error:.1e}")
    assert error < 1e-5
    mean = (adapted.sum(1) / mask.sum(1))
    ours = torch.nn.functional.normalize(torch.tensor(SentenceTransformer(str(saved), device="cpu").encode(TEXTS)))
    error = (torch.nn.functional.normalize(mean) - ours).norm().item()
    print(f"the pooled vectors of both differ by {error:.1e}")
    assert error < 1e-4


if __name__ == "__main__":
    main()
