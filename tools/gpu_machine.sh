#!/bin/bash
# Takes the project to a machine that has a GPU and little else: CUDA toolkit, gcc, cmake, ninja; no network, no packages.
#
#   tools/gpu_machine.sh pack FILE.tar.gz    here: the committed tree with static libraries and headers of what it links
#   tools/gpu_machine.sh run OUT [STEP...]   there, in the unpacked tree: build, test, judge, benchmark; logs and records in OUT
#
# Steps: build test judge bench models peers sanitize (without any: all but sanitize). FK_DEPS names the packed folder (deps/).
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pack() {
  local out=$1 work
  work=$(mktemp -d) || exit 1
  mkdir -p "$work/fastkernels"
  git archive HEAD | tar -x -C "$work/fastkernels"
  deps "$work/fastkernels/deps"
  git describe --always --dirty --abbrev=12 >"$work/fastkernels/deps/commit"
  tar -czf "$out" -C "$work" fastkernels && ls -l "$out"
  rm -rf "$work"
}

# Static libraries and headers of jansson and PCRE2.
deps() {
  local to=$1 name
  mkdir -p "$to/lib" "$to/include"
  for name in jansson pcre2-8; do
    cp "$(cc -print-file-name=lib$name.a)" "$to/lib/" || exit 1
  done
  cp "$(pkg-config --variable=includedir jansson)"/jansson*.h "$to/include/"
  # Debian keeps this one with the architecture's headers.
  find /usr/include -name jansson_config.h -exec cp {} "$to/include/" \;
  cp "$(pkg-config --variable=includedir libpcre2-8)/pcre2.h" "$to/include/"
}

build() {
  local arch
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  case $arch in 90 | 100) arch=${arch}a ;; esac
  cmake -G Ninja -S . -B build/gpu -DCMAKE_BUILD_TYPE=Release -DFK_PORTABLE=ON -DFK_DEPS="$deps" -DFK_UNIT_TESTS=OFF \
    -DFK_CUDA=REQUIRED "-DCMAKE_CUDA_ARCHITECTURES=$arch-real" >"$out/cmake.log" 2>&1 || { tail "$out/cmake.log"; exit 1; }
  ninja -C build/gpu fastkernels gpu_tests benchmarks_gpu >"$out/build.log" 2>&1 || { grep -A5 FAILED "$out/build.log"; exit 1; }
}

gpu_test() {
  (cd build/gpu && ctest -L gpu --output-on-failure --timeout 200) >"$out/ctest.log" 2>&1
  tail -n 12 "$out/ctest.log"
}

# The demo judges the example candidates, those for the GPU too, and checks every verdict.
judge() {
  FASTKERNELS=build/gpu/fastkernels bash tools/demo.sh >"$out/judge.log" 2>&1
  local status=$?
  cp build/demo/results-gpu.json "$out/judge.json"
  echo "demo: status $status"
}

bench() {
  build/gpu/bench_cuda --json "$out/bench.json" >"$out/bench.log" 2>&1
  tail -n 3 "$out/bench.log"
}

models() {
  build/gpu/bench_cuda_models --json "$out/models.json" >"$out/models.log" 2>&1
  cat "$out/models.log"
}

peers() {
  python3 benchmarks/peers.py --compile --budget 120 --json "$out/peers.json" >"$out/peers.log" 2>&1
  tail -n 3 "$out/peers.log"
  local ours=()
  [ -f "$out/models.json" ] && ours=(--ours "$out/models.json")
  timeout 200 python3 benchmarks/peers_models.py "${ours[@]}" --json "$out/peers_models.json" 2>"$out/peers_models.log"
}

# Every tool over every task and every own matrix kernel, many at a time: the tools keep processors busy more than the GPU.
# Large cases are left out. Of the matrix products only own kernels are looked at: racecheck finds hazards within
# cuBLASLt's, and initcheck does not see what they store by the copy engine.
sanitize_one() {
  local tool=$1 task=$2 kernel=$3 log=$4/$1-$2-$3.log
  FASTKERNELS_GEMM=$kernel timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 build/gpu/test_cuda_tasks "$task" \
    >"$log" 2>&1
  case $? in
    0) echo "$tool clean $task $kernel" ;;
    124) echo "$tool unfinished $task $kernel" ;;
    *) echo "$tool NOT-CLEAN $task $kernel" ;;
  esac
}

sanitize() {
  local tasks tool
  tasks=$(build/gpu/fastkernels list --json | python3 -c 'import json, sys
for t in json.load(sys.stdin)["tasks"]: print(t["name"], "tile,fp8_tile")')
  tasks+=$'\n'$(build/gpu/test_cuda_gemm --list | grep -v cublaslt)
  export -f sanitize_one
  export FASTKERNELS_TEST_BYTES=${FASTKERNELS_TEST_BYTES:-2000000} FASTKERNELS_TUNE=0 OMP_NUM_THREADS=2
  for tool in ${TOOLS:-memcheck racecheck synccheck initcheck}; do
    echo "$tasks" | sed "s|^|$tool |; s|$| $out|"
  done | xargs -P "$(nproc)" -L 1 bash -c 'sanitize_one "$@"' _ >"$out/sanitize.log"
  cut -d' ' -f1,2 "$out/sanitize.log" | sort | uniq -c
  grep -v ' clean' "$out/sanitize.log"
}

case ${1:-} in
  pack) pack "${2:?usage: gpu_machine.sh pack FILE.tar.gz}" ;;
  deps) deps "${2:?usage: gpu_machine.sh deps FOLDER}" ;;
  run)
    out=$(mkdir -p "${2:?usage: gpu_machine.sh run OUT [STEP...]}" && cd "$2" && pwd)
    deps=$(cd "${FK_DEPS:-deps}" && pwd)
    shift 2
    FASTKERNELS_COMMIT=$(cat "$deps/commit" 2>/dev/null)
    export FASTKERNELS_COMMIT FASTKERNELS_SOURCE=$PWD NCCL_NVLS_ENABLE=0
    libraries=$(python3 -c 'import glob, os, nvidia
print(":".join(glob.glob(os.path.join(list(nvidia.__path__)[0], "*", "lib"))))' 2>/dev/null)
    export LD_LIBRARY_PATH=/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}:$libraries
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader | tee "$out/gpu.txt"
    for step in ${*:-build test judge bench models peers}; do
      echo "== $step"
      start=$SECONDS
      case $step in
        test) gpu_test ;;
        build | judge | bench | models | peers | sanitize) $step ;;
        *) echo "gpu_machine.sh: no step $step" >&2 && exit 2 ;;
      esac
      echo "-- $step took $((SECONDS - start)) s"
    done
    ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
