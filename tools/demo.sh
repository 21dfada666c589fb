#!/bin/bash
# usage: demo.sh [--full]
# Captures the small Llama on its prompts, judges every example candidate on the captured calls, and checks that each verdict is
# the expected one. Some candidates are meant to fail. --full takes the default, longer settings of bench.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${FASTKERNELS:-build/release/fastkernels}
out=build/demo
mkdir -p "$out"
settings=(--timeout 2 --rounds 7 --budget 200 --max-cases 2)
[ "${1:-}" = --full ] && settings=(--timeout 2)

# What must come out: one word for a candidate that passes (faster or not is this machine's affair), else the verdicts that
# count as caught. The reason is the first comment of each file.
expected() {
  case $1 in
    *_crash.c) echo CRASHED ;;
    *_hang.c | *_hang.cu) echo TIMEOUT ;;
    *) if head -n 1 "$1" | grep -q '^/\* Honest'; then echo PASS; else echo WRONG; fi ;;
  esac
}

# candidate<TAB>verdict<TAB>reason for every case of a record (one key a line, in order).
verdicts() {
  awk -F'": ' '
    function text(s) { sub(/,$/, "", s); gsub(/^"|"$/, "", s); return s }
    /^ *"candidate": / { flush(); name = text($2); next }
    /^ *"verdict": / { flush(); verdict = text($2); reason = "-"; next }
    /^ *"reason": / { if (verdict != "") reason = text($2); else if (name != "") { verdict = "REFUSED"; reason = text($2) } }
    function flush() { if (verdict != "") print name "\t" verdict "\t" reason; verdict = "" }
    END { flush() }' "$1"
}

echo "== This machine"
"$program" doctor --quick || exit 1

echo
echo "== Capture: every task call of examples/tiny-llama on its prompts"
"$program" capture examples/tiny-llama --dtype float32 --output "$out/captures.json" || exit 1

echo
echo "== Judge: the example candidates on the captured calls"
candidates=()
for file in examples/candidates/*.c; do candidates+=(--candidate "$file"); done
"$program" bench --captures "$out/captures.json" "${settings[@]}" "${candidates[@]}" --output "$out/results.json"
status=$?
[ "$status" -le 1 ] || exit "$status"

echo
echo "== Expected verdicts"
failed=0

# Compares the verdicts of a record with what the candidates' first lines promise.
check() { # record, candidates...
  local record=$1 file want verdict bad caught answer got
  shift
  verdicts "$record" >"$out/verdicts"
  for file in "$@"; do
    want=$(expected "$file")
    mapfile -t got < <(awk -F'\t' -v file="$file" '$1 == file {print $2}' "$out/verdicts" | sort -u)
    bad=0
    [ ${#got[@]} -gt 0 ] || bad=1
    if [ "$want" = PASS ]; then
      for verdict in "${got[@]}"; do [[ " FASTER SAME SLOWER " == *" $verdict "* ]] || bad=1; done
    else # caught on at least one case
      caught=0
      for verdict in "${got[@]}"; do [[ " $want " == *" $verdict "* ]] && caught=1; done
      [ "$caught" = 1 ] || bad=1
    fi
    answer=$([ "$bad" = 0 ] && echo "as expected" || echo "UNEXPECTED, should be $want")
    printf '%-32s %-24s %s\n' "$(basename "$file")" "${got[*]:-nothing}" "$answer"
    printf '%-32s %s\n' "" "$(head -n 1 "$file" | sed 's|^/\* *||; s| *\*/$||')"
    [ "$bad" = 0 ] || failed=1
  done
}

check "$out/results.json" examples/candidates/*.c
echo
if nvidia-smi -L >/dev/null 2>&1; then
  echo "== Judge: the CUDA candidates on the GPU, at the size of a prompt"
  candidates=()
  for file in examples/candidates/rms_norm_*.cu; do candidates+=(--candidate "$file"); done
  "$program" bench --device cuda --cases '{"axes": {"rows": 2048, "hidden_size": 4096}, "dtypes": {"x": "bfloat16"}}' \
    --rounds 7 --budget 500 "${candidates[@]}" --output "$out/results-gpu.json"
  status=$?
  [ "$status" -le 1 ] || exit "$status"
  echo
  check "$out/results-gpu.json" examples/candidates/rms_norm_*.cu
else
  echo "No GPU here: the CUDA candidates were not judged."
fi
if [ "$(nvidia-smi -L 2>/dev/null | wc -l)" -ge 2 ]; then
  echo
  echo "== Judge: the collective candidates on two GPUs, a rank on each"
  candidates=()
  for file in examples/candidates/all_reduce_*.cu; do candidates+=(--candidate "$file"); done
  "$program" bench --device cuda --gpus 0,1 --cases '{"axes": {"ranks": 2, "rows": 64, "columns": 8192}, "dtypes": {"x": "bfloat16"}}' \
    --rounds 7 --budget 500 --timeout 5 "${candidates[@]}" --output "$out/results-gpus.json"
  status=$?
  [ "$status" -le 1 ] || exit "$status"
  echo
  check "$out/results-gpus.json" examples/candidates/all_reduce_*.cu
fi
echo
echo "Written: $out/captures.json, $out/results.json"
exit "$failed"
