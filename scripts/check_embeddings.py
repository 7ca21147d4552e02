"""Tests finished models over `/v1/embeddings` with common clients: openai-python, LangChain and LlamaIndex. Compares
every vector with that of `local` for the same saved model, and measures requests.

    pip install openai langchain-openai llama-index-embeddings-openai numpy
    python scripts/check_embeddings.py [--profile debug] [--clients 1 8 32] [--seconds 10]

Fails if a value differs by more than 1e-6, or if an error does not name its cause. The server is the example
`served_models` of the server crate, with `minilm-small` and `clip-small` after one epoch. Requests are measured with
openai-python's asynchronous client, one short text each. One Python process is slower than the server, so every four
clients run in a separate process.
"""

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import openai

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-6
# Clients per process.
TOGETHER = 4


class Server:
    def __init__(self, profile, folder):
        release = ["--release"] if profile == "release" else []
        build = ["cargo", "build", "--quiet", *release, "-p", "finetuner-server", "--example", "served_models"]
        subprocess.run(build, check=True, cwd=ROOT)
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        program, expected = target / profile / "examples/served_models", folder / "expected.json"
        self.process = subprocess.Popen([program, expected], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = json.loads(self.process.stdout.readline())
        self.base, self.token = said["url"] + "/v1", said["token"]
        self.expected = json.loads(expected.read_text())

    def stop(self):
        self.process.stdin.close()
        self.process.wait(60)


def same(what, found, expected):
    found, expected = np.array(found, np.float32), np.array(expected, np.float32)
    assert found.shape == expected.shape, f"{what}: {found.shape}, expected {expected.shape}"
    most = np.abs(found - expected).max()
    assert most <= LIMIT, f"{what}: values differ by {most}"
    print(f"{what}: {len(found)} vectors, the largest difference is {most:.1e}")


def refused(what, kind, code, param, call):
    try:
        call()
    except kind as error:
        assert (error.code, error.param) == (code, param), f"{what}: {error.code}, {error.param}"
        print(f"{what}: {error.message}")
        return
    raise AssertionError(f"{what}: it was not refused")


def with_openai(server):
    expected = server.expected
    client = openai.OpenAI(base_url=server.base, api_key=server.token, max_retries=0)
    texts = expected["texts"]

    def embed(model, inputs, **more):
        answer = client.embeddings.create(model=model, input=inputs, **more)
        assert [one.index for one in answer.data] == list(range(len(inputs)))
        assert answer.usage.total_tokens > 0 or model.endswith("clip")
        return [one.embedding for one in answer.data]

    same("openai, base64", embed("default/texts", texts), expected["plain"])
    same("openai, float", embed("texts", texts, encoding_format="float"), expected["plain"])
    query = {"prompt_name": "query"}
    same("openai, the prompt of queries", embed("texts", texts, extra_body=query), expected["query"])
    same("openai, 64 dimensions", embed("texts", texts, dimensions=64), expected["short"])
    files = [Path(name).read_bytes() for name in expected["pictures"]]
    pictures = ["data:image/png;base64," + base64.b64encode(file).decode() for file in files]
    same("openai, pictures and texts", embed("clip", pictures + texts[:2]),
         expected["clip_pictures"] + expected["clip_texts"][:2])

    names = {model.id for model in client.models.list()}
    assert names == {"default/texts", "default/clip"}, names
    assert client.models.retrieve("default/texts").owned_by == "finetuner"

    create = client.embeddings.create
    refused("an unknown model", openai.NotFoundError, "model_not_found", "model",
            lambda: create(model="none", input="x"))
    refused("token ids", openai.BadRequestError, None, "input", lambda: create(model="texts", input=[1, 2, 3]))
    refused("an image for a text model", openai.BadRequestError, None, "input[0]",
            lambda: create(model="texts", input=pictures[0]))
    refused("too many dimensions", openai.BadRequestError, None, "dimensions",
            lambda: create(model="texts", input="x", dimensions=100_000))
    stranger = openai.OpenAI(base_url=server.base, api_key="ft_wrong", max_retries=0)
    refused("a wrong token", openai.AuthenticationError, "invalid_api_key", None,
            lambda: stranger.embeddings.create(model="texts", input="x"))


def with_langchain(server):
    from langchain_openai import OpenAIEmbeddings

    model = OpenAIEmbeddings(model="default/texts", base_url=server.base, api_key=server.token,
                             check_embedding_ctx_length=False)
    texts = server.expected["texts"]
    same("LangChain, documents", model.embed_documents(texts), server.expected["plain"])
    same("LangChain, a query", [model.embed_query(texts[0])], server.expected["plain"][:1])


def with_llama_index(server):
    try:
        from llama_index.embeddings.openai import OpenAIEmbedding
    except ImportError:
        print("skipped: LlamaIndex is not installed")
        return
    model = OpenAIEmbedding(model_name="default/texts", api_base=server.base, api_key=server.token)
    texts = server.expected["texts"]
    same("LlamaIndex", model.get_text_embedding_batch(texts), server.expected["plain"])


async def ask(base, token, texts, until, count):
    """Returns the seconds of each request of some clients."""
    took = []
    async with openai.AsyncOpenAI(base_url=base, api_key=token, max_retries=0) as client:
        async def one(first):
            number = first
            while time.monotonic() < until:
                begun = time.perf_counter()
                await client.embeddings.create(model="default/texts", input=texts[number % len(texts)])
                took.append(time.perf_counter() - begun)
                number += 1

        await asyncio.gather(*(one(first) for first in range(count)))
    return took


def worker(base, token, texts, until, count, results):
    results.put(asyncio.run(ask(base, token, texts, until, count)))


def measure(server, clients, seconds):
    until, results = time.monotonic() + seconds, multiprocessing.Queue()
    counts = [TOGETHER] * (clients // TOGETHER) + [clients % TOGETHER] * (clients % TOGETHER > 0)
    arguments = [(server.base, server.token, server.expected["texts"], until, count, results) for count in counts]
    workers = [multiprocessing.Process(target=worker, args=one) for one in arguments]
    for one in workers:
        one.start()
    took = np.concatenate([results.get() for _ in workers]) * 1000
    for one in workers:
        one.join()
    print(f"{clients} clients: {len(took) / seconds:.0f} requests per second; "
          f"median {np.median(took):.1f} ms, p99 {np.percentile(took, 99):.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=["debug", "release"], default="release")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(options.profile, Path(folder))
        try:
            with_openai(server)
            with_langchain(server)
            with_llama_index(server)
            for clients in options.clients:
                measure(server, clients, options.seconds)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
