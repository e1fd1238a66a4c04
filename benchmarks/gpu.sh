#!/usr/bin/env bash
# Correctness, then speed of training on a GPU, in at most nine minutes on an H100-class card.
#
#   CORPUS=path/to/corpus EVAL_CORPUS=path/to/another OUT=gpu-results benchmarks/gpu.sh
#
# Needs this checkout, a corpus, torch >= 2.11, Triton >= 3.6, numpy, pyarrow, pydantic, pyyaml and safetensors; neither
# Ray nor a network. mamba-ssm (with einops) is used where it is installed. The parts, in order of importance:
#   environment         card, driver, versions
#   gpu_correctness     kernels, gradients, whole updates and graphs against plain torch
#   step_profile        time by group of kernels, host time, launches, share of the peak
#   train_step          targets/s by config, batch and mode (eager, CUDA graph, compiled)
#   end_to_end          from Parquet, with validations
#   seconds_to_quality  seconds until change_acc is 0.70 and 0.75 on EVAL_CORPUS (by default CORPUS)
# Each prints as it goes and keeps one JSON file in $OUT up to date, so a run that is cut off still tells what it found.
# PARTS names the parts to run, MOST_SECONDS limits all of them. Without a GPU (or with TINY=1) everything runs with tiny
# sizes, so that it can be tested. A part that fails is reported, the next ones go on, and the exit code is 1.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-gpu-results}
MOST_SECONDS=${MOST_SECONDS:-540}
PARTS=${PARTS:-environment gpu_correctness step_profile train_step end_to_end seconds_to_quality}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=()

if [ -z "${TINY:-}" ]; then
  TINY=1
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && TINY=0
fi

# Machines without a network are prepared by hand, so report everything that is missing before the first part.
modules=(numpy pyarrow pydantic safetensors torch yaml)
[ "$TINY" -eq 0 ] && modules+=(triton)
[ -z "${CORPUS:-}" ] && modules+=(peppi_py)
missing=$("$PYTHON" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "${modules[@]}" 2>&1)
if [ -n "$missing" ]; then echo "!! missing Python modules: $missing"; else echo "all Python modules found: ${modules[*]}"; fi

# part NAME SECONDS COMMAND...: run a part, show its output and save it; it fails after SECONDS.
part() {
  local name=$1 seconds=$2
  shift 2
  case " $PARTS corpus " in *" $name "*) ;; *) return ;; esac
  local left=$((MOST_SECONDS - SECONDS))
  if [ "$left" -lt 10 ]; then
    failed+=("$name")
    echo "!! $name was not started: $MOST_SECONDS s are over"
    return
  fi
  [ "$seconds" -gt "$left" ] && seconds=$left
  echo "== $name"
  local started=$SECONDS
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$OUT/$name.txt"
  local code=${PIPESTATUS[0]}
  if [ "$code" -ne 0 ]; then
    failed+=("$name")
    [ "$code" -eq 124 ] || [ "$code" -eq 137 ] && echo "!! $name took more than $seconds s" || echo "!! $name failed with exit code $code"
  fi
  echo "== $name: $((SECONDS - started)) s"
}

environment() {
  if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv; fi
  "$PYTHON" - "$OUT/environment.json" <<'PYTHON_END'
import json
import sys
from pathlib import Path

from wm.runs.environment import environment

found = json.dumps(environment(), indent=1)
Path(sys.argv[1]).write_text(found)
print(found)
PYTHON_END
}
export -f environment
export PYTHON OUT

run() {
  local name=$1 seconds=$2
  shift 2
  local script=benchmarks/$name.py
  [ -f "$script" ] || script=benchmarks/gpu/$name.py
  part "$name" "$seconds" "$PYTHON" "$script" "$@" --json "$OUT/$name.json" "${tiny[@]}"
}

# CONFIG:SCAN:MODE:BATCH, in order of importance; graphs and kernels of CUDA become plain updates in a tiny run.
if [ "$TINY" -eq 1 ]; then
  echo "no GPU here, or TINY=1: tiny sizes, whose speeds are meaningless"
  tiny=(--tiny)
  games=(--games 4 --max-frames 2000)
  backend=torch
  modes=(eager graph)
  cases=(mamba2-medium:torch:eager:512 mamba2-medium:torch:graph:512 mamba2-large:torch:eager:512)
  seconds=1
else
  tiny=()
  games=(--games 400 --max-frames 9000)
  backend=triton
  modes=(eager graph compiled-graph)
  cases=()
  for batch in 512 2048 128 4096; do cases+=(mamba2-medium:triton:{eager,graph}:$batch); done
  cases+=(mamba2-{large,xl}:triton:{eager,graph}:512 mamba2-medium:torch:{eager,graph}:512)
  cases+=(mamba2-medium:triton:compiled-graph:512 mamba2-medium:torch:compiled-graph:512)
  cases+=(mamba2-{large,xl}:triton:graph:{2048,128,4096})
  cases+=(mamba2-{large,xl}:triton:compiled-graph:512 mamba2-medium:triton:compiled:{512,2048} mamba2-medium:triton:graph:1024)
  seconds=12
fi

part environment 30 bash -c environment
corpus=${CORPUS:-}
if [ -z "$corpus" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  part corpus 120 "$PYTHON" benchmarks/inputs/synthetic_corpus.py "$scratch" "${games[@]}"
  corpus=$scratch/corpus
fi
run gpu_correctness 110 "$corpus"
run step_profile 90 --backend "$backend" --batch 512 --modes "${modes[@]}"
run train_step 150 --cases "${cases[@]}" --seconds-per-case 1 --limit-per-case 40 --most-seconds 110
run end_to_end 70 "$corpus" --seconds "$seconds" --step-json "$OUT/train_step.json" \
  --optimizer.batch-size 512 --cuda-graph \
  --eval.every-targets 3000000
run seconds_to_quality 120 "$corpus" "${EVAL_CORPUS:-$corpus}" --seconds $((seconds * 7)) \
  --optimizer.batch-size 64 --optimizer.total-targets 20000000 --cuda-graph \
  --eval.every-targets 500000

echo "== results in $OUT, $SECONDS s in all"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "!! failed: ${failed[*]}"
  exit 1
fi
