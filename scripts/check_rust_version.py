"""Checks that every dependency supports the Rust version that the workspace promises.

    python scripts/check_rust_version.py

Reads the `rust-version` of each package in Cargo.lock, including those for other
systems. Clippy's `incompatible_msrv` does the same for the standard library.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def number(version):
    parts = [int(part) for part in version.split(".")]
    return parts + [0] * (3 - len(parts))


def main():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    own = {p["id"]: p for p in metadata["packages"] if p["source"] is None}
    promised = min((p["rust_version"] for p in own.values()), key=number)
    others = [p for p in metadata["packages"] if p["id"] not in own and p["rust_version"]]
    newer = [p for p in others if number(p["rust_version"]) > number(promised)]
    for package in newer:
        print(f"{package['name']} {package['version']} needs Rust {package['rust_version']}, we promise {promised}")
    most = max(others, key=lambda p: number(p["rust_version"]))
    print(f"Rust {promised} is promised; {most['name']} needs the most, {most['rust_version']}")
    sys.exit(1 if newer else 0)


if __name__ == "__main__":
    main()
