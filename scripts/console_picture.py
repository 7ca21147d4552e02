"""Takes a screenshot of a run's page in the console.

    apt-get install chromium chromium-driver
    pip install selenium requests pillow
    cargo build --workspace --bins --examples
    python scripts/console_picture.py docs/console.png [--profile release]

Runs the example `text_to_image` on a separate server and takes a screenshot of
its run.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from check_console import ROOT, Browser, Server, pictures_are_there

SIZE = (1280, 900)
LARGEST = 200_000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("picture", type=Path)
    parser.add_argument("--profile", choices=["debug", "release"], default="debug")
    options = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / options.profile
    with tempfile.TemporaryDirectory() as folder:
        server = Server(target / "finetuner-server", str(Path(folder) / "data"))
        browser = None
        try:
            environment = {**os.environ, "JINA_FINETUNER_REGISTRY": server.url,
                           "JINA_HUBBLE_REGISTRY": server.url, "JINA_AUTH_TOKEN": server.token}
            subprocess.run([target / "examples/text_to_image", "--output", Path(folder) / "model"],
                           env=environment, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            browser = Browser(server)
            browser.size(SIZE)
            browser.driver.get(server.link)
            browser.open("/console/experiments/default/runs/clip-fashion-1")
            pictures_are_there(browser)
            browser.driver.save_screenshot(str(options.picture))
        finally:
            if browser:
                browser.driver.quit()
            server.process.terminate()
            server.process.wait()
    # Text and lines need few colors.
    Image.open(options.picture).convert("RGB").quantize(64).save(options.picture, optimize=True)
    size = options.picture.stat().st_size
    assert size <= LARGEST, f"{options.picture} has {size} bytes"
    print(f"{options.picture}: {size} bytes")


if __name__ == "__main__":
    main()
