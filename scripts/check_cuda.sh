#!/bin/sh
# Compiles the engine's CUDA code on a machine without a GPU and without CUDA. NVIDIA's
# compiler and headers come from PyPI. Nothing is run.
#
#   scripts/check_cuda.sh [FOLDER]      # folder for the Python environment, which is kept
#   scripts/check_cuda.sh --packages    # prints the packages from PyPI
set -eu
cd "$(dirname "$0")/.."

PACKAGES="nvidia-cuda-nvcc==13.* nvidia-cuda-runtime==13.* nvidia-cuda-cccl==13.* nvidia-nvvm==13.* nvidia-cuda-crt==13.* nvidia-curand nvidia-cublas"
if [ "${1:-}" = --packages ]; then
    echo "$PACKAGES"
    exit
fi
venv=${1:-target/cuda-venv}

[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
# shellcheck disable=SC2086
"$venv/bin/pip" install -q --disable-pip-version-check $PACKAGES

CUDA_HOME=$(cd "$venv"/lib/python3*/site-packages/nvidia/cu13 && pwd)
export CUDA_HOME
# Without a GPU, the compute capability must be given: 9.0 is Hopper. Without a driver, cudarc
# needs the version of the headers. With the gate's other feature, dependencies are built once.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-13000}"
PATH="$CUDA_HOME/bin:$PATH" cargo check --locked --workspace \
    --features finetuner-server/kubernetes,finetuner-server/cuda
