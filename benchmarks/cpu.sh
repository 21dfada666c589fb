#!/bin/sh
# The CPU kernels against OpenBLAS, oneDNN and PyTorch: runs take turns, one table at the end.
#
#     benchmarks/cpu.sh BUILD_DIR [TURNS] [ROUNDS]
#
# PYTHON names a Python with PyTorch. OpenBLAS 0.3.21 does not know newer processors and falls back to SSE3 there, so it
# is told to use its best kernels when the processor has AVX-512; the record says so.
set -eu
build=$1
turns=${2:-3}
rounds=${3:-3}
here=$(cd "$(dirname "$0")" && pwd)
: "${OMP_NUM_THREADS:=2}"
export OMP_NUM_THREADS
if grep -q avx512bw /proc/cpuinfo; then
  OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE:-SkylakeX}
  export OPENBLAS_CORETYPE
fi
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
for turn in $(seq "$turns"); do
  for part in ${PARTS:-bandwidth linear attention memory}; do
    "$build/bench_cpu_kernels" "$rounds" "$part" >>"$lines"
    case $part in attention | memory)
      "${PYTHON:-python3}" "$here/peers_cpu.py" "$rounds" "$part" >>"$lines"
      ;;
    esac
  done
done
mkdir -p "$here/results"
"${PYTHON:-python3}" "$here/cpu_table.py" "$lines" "$here/results/cpu-$(date -u +%Y-%m-%d).json"
