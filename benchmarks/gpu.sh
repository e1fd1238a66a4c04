#!/usr/bin/env bash
# Correctness, then speed of training on a GPU, in under ten minutes on an H100-class card.
#
#   OUT=gpu-results CORPUS=path/to/corpus benchmarks/gpu.sh
#
# Writes environment.json and, for each part, its output into $OUT. CORPUS is optional: synthetic games otherwise.
# BATCH is sequences in a batch; PARTS names the parts to run, by default all. Without a GPU (or with TINY=1) everything
# runs with tiny sizes, so that it can be tested.
# A part that fails is reported, the next ones go on, and the exit code is 1.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-gpu-results}
BATCH=${BATCH:-512}
PARTS=${PARTS:-environment gpu_correctness train_step input end_to_end ray_overhead}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=()

if [ -z "${TINY:-}" ]; then
  TINY=1
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && TINY=0
fi

# Machines without a network are prepared by hand, so report everything that is missing before the first part.
modules=(numpy peppi_py psutil pyarrow pydantic ray safetensors tensorboardX torch tyro yaml)
[ "$TINY" -eq 0 ] && modules+=(einops mamba_ssm triton)
missing=$("$PYTHON" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "${modules[@]}" 2>&1)
if [ -n "$missing" ]; then echo "!! missing Python modules: $missing"; else echo "all Python modules found: ${modules[*]}"; fi

# part NAME SECONDS COMMAND...: run a part, show its output and save it; it fails after SECONDS.
part() {
  local name=$1 seconds=$2
  shift 2
  case " $PARTS corpus " in *" $name "*) ;; *) return ;; esac
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

if [ "$TINY" -eq 1 ]; then
  echo "no GPU here, or TINY=1: tiny sizes, whose speeds are meaningless"
  games=(--games 4 --max-frames 2000)
  tiny=(--tiny)
  step=(--tiny --configs mlp mamba2-medium)
  input=(--tiny)
  end=(--tiny)
  ray=(--tiny)
else
  games=(--games 400 --max-frames 9000)
  tiny=()
  # Both scan backends unless --most-seconds runs out.
  step=(--batch "$BATCH" --seconds-per-case 2 --most-seconds 150)
  input=(--batch "$BATCH" --epochs 2 --seconds 3 --train-seconds 0 --need 1000000)
  end=(--seconds 30 --optimizer.batch-size "$BATCH" --optimizer.learning-rate 1e-3)
  ray=(--seconds 15 --rounds 1 --batch "$BATCH")
fi

part environment 60 bash -c environment
corpus=${CORPUS:-}
if [ -z "$corpus" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  part corpus 120 "$PYTHON" benchmarks/inputs/synthetic_corpus.py "$scratch" "${games[@]}"
  corpus=$scratch/corpus
fi
part gpu_correctness 150 "$PYTHON" benchmarks/gpu_correctness.py "$corpus" "${tiny[@]}"
part train_step 240 "$PYTHON" benchmarks/train_step.py "${step[@]}"
part input 120 "$PYTHON" benchmarks/input.py "$corpus" "${input[@]}"
part end_to_end 150 "$PYTHON" benchmarks/end_to_end.py "$corpus" --step-json "$OUT/train_step.txt" "${end[@]}"
part ray_overhead 150 "$PYTHON" benchmarks/ray_overhead.py "$corpus" "${ray[@]}"

echo "== results in $OUT, $SECONDS s in all"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "!! failed: ${failed[*]}"
  exit 1
fi
