"""Compares `pointnet-base` at full size and with random weights with the network of the Python Finetuner: embeddings in
training, and the gradient of every parameter.

    python -m venv commons && commons/bin/pip install "numpy<2" torch safetensors "transformers==4.30.2"
    commons/bin/pip install --no-deps "finetuner-commons==0.13.10"
    commons/bin/python scripts/check_pointnet.py

The reference is Python in double precision, because normalization loses digits. Fails if the differences of the engine
are more than twice those of PyTorch in single precision.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CLOUDS, POINTS = 4, 2048
# Allowed multiple of PyTorch's own difference between single and double precision.
LIMIT = 2.0


def network():
    """Loads the class of the network without the rest of its package and its dependencies."""
    spec = importlib.util.find_spec("_finetuner")
    folder = Path(next(iter(spec.submodule_search_locations))) / "models/nn/pointnet.py"
    module = types.ModuleType("pointnet")
    exec(compile(folder.read_text(), str(folder), "exec"), module.__dict__)

    class Mesh(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._point_encoder = module.PointNet2(1024, "bnc", normal_channel=False)
            self._projector = module.PointNetMLP(1024, 4096, 512)

        def forward(self, points):
            return self._projector(self._point_encoder(points))

    return Mesh()


def relative(found, expected, shortest):
    return ((found - expected).norm() / max(expected.norm(), shortest)).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one-batch", help="the engine's example `one_batch`; built from here by default")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():  # With biases of zero and norms of one, errors could remain hidden.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    points = torch.randn(CLOUDS, POINTS, 3)
    points = points / points.norm(dim=-1).amax(1)[:, None, None]
    cotangent = torch.randn(CLOUDS, 512)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        state = {k: v.clone().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
        save_file(state, folder / "model.safetensors")
        config = {"model_type": "pointnet2", "embed_dim": 512, "grouping": "nearest", "center_last": True}
        (folder / "config.json").write_text(json.dumps(config))
        inputs, outputs = folder / "inputs.safetensors", folder / "outputs.safetensors"
        save_file({"points": points, "cotangent": cotangent}, inputs)
        program = [options.one_batch] if options.one_batch else [
            "cargo", "run", "--release", "--quiet", "-p", "finetuner-engine", "--example", "one_batch", "--"]
        subprocess.run([*program, folder, inputs, outputs, "--steps", "1"], check=True)
        found = load_file(outputs)
    single = computed(model, points, cotangent)
    torch.set_default_dtype(torch.float64)
    expected = computed(model.double(), points.double(), cotangent.double())
    bad = False
    for kind in ["cloud_embeds", "grad"]:
        names = [name for name in expected if name.startswith(kind)]
        # The next normalization removes a shift of all clouds, so its gradient is rounding noise.
        shortest = 1e-3 * max(expected[name].norm() for name in names)

        def worst(values):
            return max((relative(values[name].double(), expected[name], shortest), name) for name in names)

        (ours, name), (theirs, _) = worst(found), worst(single)
        bad |= not ours <= LIMIT * theirs
        print(f"{kind:13} {ours:.1e}, PyTorch in single precision {theirs:.1e}   {name}, of {len(names)}")
    sys.exit("too different" if bad else 0)


def computed(model, points, cotangent):
    """Returns embeddings in training, and gradients."""
    model.train().zero_grad()
    embeddings = model(points)
    (embeddings * cotangent).mean().backward()
    values = {"cloud_embeds": embeddings.detach()}
    for name, parameter in model.named_parameters():
        # The classifier is not used, and these biases are removed by a normalization.
        if parameter.grad is not None and not ("mlp_convs" in name and name.endswith("bias")):
            values[f"grad.{name.removeprefix('_point_encoder.')}"] = parameter.grad.clone()
    return values


if __name__ == "__main__":
    main()
