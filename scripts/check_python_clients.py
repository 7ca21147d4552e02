"""Runs the Python clients of both generations, unchanged, against the server:
they log in, push, fit, follow, list, fetch and delete, with real fine-tuning.
There is one row for each code block of their documentation; the rows are in
`python_clients/late.py` and `early.py`. Fails if a row fails.

Each generation needs a Python environment of its own:

    python -m venv late && late/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "jina-hubble-sdk==0.33.1" "finetuner-stubs==0.13.10" "docarray[common]==0.21.0"
    late/bin/pip install --no-deps "finetuner==0.8.1"

    python -m venv early && early/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "docarray==0.13.19" "protobuf==3.20.3" "aiohttp==3.9.5" pathspec docker importlib-metadata
    early/bin/pip install --no-deps "jina-hubble-sdk==0.5.1" "finetuner-client==0.2.2"

    python scripts/check_python_clients.py --late late/bin/python --early early/bin/python

`--no-deps` because some of their pinned dependencies are no longer available:
finetuner 0.8.1 requires a commons package whose tokenizers can't be built with a
current Python, and jina-hubble-sdk 0.5.1 an aiohttp that can't.

The clients only know the names of their own models, which come from a hub. To
work without the network, the script first trains small models and puts them into
the local cache of the hub under these names.

To open models in Python, the packages of `finetuner[full]` are needed, in newer
versions than the pinned ones. Without them the rows of `get_model` are skipped:

    late/bin/pip install torch torchvision onnx onnxruntime "transformers==4.30.2" ftfy
    late/bin/pip install --no-deps "finetuner-commons==0.13.10" "open-clip-torch==2.20.0" timm sentencepiece

`CHECK_ONLY=text` runs the rows whose names contain the text, and those that log in.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = Path(__file__).resolve().parent / "python_clients"


RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def build():
    """Builds the server and returns the path of its program."""
    subprocess.run(["cargo", "build", "--release", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
    return RELEASE / "finetuner-server"


def build_embed():
    """Builds the program that embeds with the engine itself, and returns its path."""
    command = ["cargo", "build", "--release", "-p", "finetuner-engine", "--example", "embed"]
    subprocess.run(command, check=True, cwd=ROOT)
    return RELEASE / "examples/embed"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--late", help="a Python with finetuner 0.8.1")
    parser.add_argument("--early", help="a Python with finetuner-client 0.2.2")
    parser.add_argument("--server", help="a finetuner-server; built from here by default")
    parser.add_argument("--embed", help="the engine's example `embed`; built from here by default")
    options = parser.parse_args()
    # The programs run in other folders. Don't resolve links: a Python finds its
    # environment by the path of the link.
    absolute = lambda path: os.path.abspath(path) if path else None
    pythons = {"late": absolute(options.late), "early": absolute(options.early)}
    if not any(pythons.values()):
        parser.error("give --late, --early or both")
    program = absolute(options.server) or build()
    embed = absolute(options.embed) or build_embed()
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        hub, data = Path(folder) / "hub", Path(folder) / "data"
        server = subprocess.Popen(
            [program, "serve", "--address", "127.0.0.1:0", "--data", data], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"})
        try:
            url = token = None
            while token is None:
                line = server.stdout.readline()
                url = line.split()[-1] if "is ready at" in line else url
                token = line.split()[-1] if line.startswith("Token") else None
            other = subprocess.run([program, "token", "anna", "--data", data], check=True, capture_output=True, text=True)
            for role, python in pythons.items():
                if not python:
                    continue
                home = Path(folder) / role
                home.mkdir()
                environment = {
                    **os.environ, "JINA_FINETUNER_REGISTRY": url, "JINA_HUBBLE_REGISTRY": url,
                    "JINA_HUB_ROOT": str(home / ".jina"), "HOME": str(home), "USER_TOKEN": token,
                    "OTHER_TOKEN": other.stdout.split()[-1], "CHECK_HUB": str(hub),
                    "CHECK_EMBED": str(embed), "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1",
                    # Simulates the user's browser. `&` makes it run in the background.
                    "BROWSER": f"{python} {ROWS / 'browser.py'} %s &",
                }
                environment.pop("JINA_AUTH_TOKEN", None)
                print(f"{role}: {python}", flush=True)
                done = subprocess.run([python, ROWS / f"{role}.py"], env=environment, cwd=home)
                if done.returncode != 0:
                    bad.append(role)
        finally:
            server.terminate()
            server.wait()
    if bad:
        sys.exit(f"bad rows: {', '.join(bad)}")
    print("all good")


if __name__ == "__main__":
    main()
