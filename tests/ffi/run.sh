#!/bin/bash
# usage: run.sh SOURCE_DIR BUILD_DIR CC
# Builds a candidate from abi.h alone and runs test_ffi.py under the real apache-tvm-ffi package, in a virtual environment
# that is made once, in build/venv (FK_PYTHON names another interpreter that has the packages).
set -euo pipefail
source=$1 build=$2 cc=$3 venv=$(dirname "$2")/venv
python=${FK_PYTHON:-$venv/bin/python}
packages=(apache-tvm-ffi numpy)

if ! "$python" -c 'import numpy, tvm_ffi' 2>/dev/null; then
  echo "creating $venv with ${packages[*]}: the package that loads kernels in PyTorch, vLLM and JAX, to test ours with"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --disable-pip-version-check "${packages[@]}"; } >"$log" 2>&1; then
    tail -n 5 "$log"
    echo "FAILED: cannot install ${packages[*]} from PyPI; without them nothing shows that candidates load outside."
    echo "Give an interpreter that has them in FK_PYTHON, or allow access to pypi.org."
    exit 1
  fi
  python=$venv/bin/python
fi

folder=$build/ffi
mkdir -p "$folder"
"$cc" -std=c17 -Wall -Wextra -Werror -O2 -fPIC -shared -fvisibility=hidden -I"$source/include" "$source/tests/ffi/rms_norm_candidate.c" \
  -o "$folder/rms_norm_candidate.so" -lm
if readelf -d "$folder/rms_norm_candidate.so" | grep NEEDED | grep -v -E 'libc\.so|libm\.so'; then
  echo "FAILED: the candidate depends on more than the C library"
  exit 1
fi
"$cc" -std=c17 -Wall -Wextra -Werror -O2 -I"$source/include" "$source/tests/ffi/host.c" -o "$folder/host" -L"$build" -lfastkernels \
  -Wl,-rpath,"$build"
"$python" "$source/tests/ffi/test_ffi.py" "$folder/rms_norm_candidate.so" "$folder/host"
