"""Measures how fast PyTorch multiplies matrices of the sizes of transformer layers, with two threads, in 32 bits and
in bfloat16. The result shows what mixed precision can bring on this machine.

    pip install torch
    python scripts/bench_products.py
    cargo run --release -p finetuner-engine --example peak
"""

import time

import torch

# Rows, inputs, outputs: BERT-base and MiniLM with 2,048 tokens, CLIP with 8 images of 50 patches.
SHAPES = [(2048, 768, 768), (2048, 768, 3072), (2048, 3072, 768), (2048, 384, 1536), (400, 768, 3072)]
SECONDS = 1.0


def rate(rows, inputs, outputs, dtype):
    x, w = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    torch.nn.functional.linear(x, w)
    products, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < SECONDS:
        torch.nn.functional.linear(x, w)
        products += 1
    return 2e-9 * rows * inputs * outputs * products / spent


torch.set_num_threads(2)
print("rows x inputs x outputs   f32 GFLOP/s   bf16 GFLOP/s")
for shape in SHAPES:
    f32, bf16 = (rate(*shape, dtype) for dtype in (torch.float32, torch.bfloat16))
    print(f"{' x '.join(map(str, shape)):24} {f32:12.0f} {bf16:14.0f}")
