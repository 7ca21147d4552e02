"""The Python clients of both generations, unchanged, against a server of ours:
they log in, push, fit, follow, list, fetch and delete, and the fine-tuning is
real. One row for each block of their documentation; the rows are in
`python_clients/late.py` and `early.py`. Ends with an error if a row is bad.

Each generation needs a Python environment of its own:

    python -m venv late && late/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "jina-hubble-sdk==0.33.1" "finetuner-stubs==0.13.10" "docarray[common]==0.21.0"
    late/bin/pip install --no-deps "finetuner==0.8.1"

    python -m venv early && early/bin/pip install "setuptools<70" "numpy<2" "pydantic<2" \
        rich requests "docarray==0.13.19" "protobuf==3.20.3" "aiohttp==3.9.5" pathspec docker importlib-metadata
    early/bin/pip install --no-deps "jina-hubble-sdk==0.5.1" "finetuner-client==0.2.2"

    python scripts/check_python_clients.py --late late/bin/python --early early/bin/python

`--no-deps` since some of what they were pinned to is no longer to be had:
finetuner 0.8.1 wants a commons package whose tokenizers can't be built with a
Python of today, and jina-hubble-sdk 0.5.1 an aiohttp that can't.

The clients know the names of their own models alone, which come from a hub. So
that no network is needed, first runs make small ones, which are put into the
hub's local cache under those names.

Opening models in Python needs what `finetuner[full]` brings, in newer versions
than it is pinned to; without it the rows of `get_model` are left out:

    late/bin/pip install torch torchvision onnx onnxruntime "transformers==4.30.2" ftfy
    late/bin/pip install --no-deps "finetuner-commons==0.13.10" "open-clip-torch==2.20.0" timm sentencepiece

`CHECK_ONLY=text` runs the rows whose names hold the text, with those that log in.
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
    """Builds the server, and returns its program."""
    subprocess.run(["cargo", "build", "--release", "-p", "finetuner-server", "--bins"], check=True, cwd=ROOT)
    return RELEASE / "finetuner-server"


def build_embed():
    """Builds the program that embeds with the engine itself, and returns it."""
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
    # The programs run in other folders. A link is kept: it is what makes a
    # Python that of its environment.
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
                    # The user's browser; `&` has it run beside the client.
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
