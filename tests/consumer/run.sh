#!/bin/bash
# usage: run.sh SOURCE_DIR BUILD_DIR CC
# Installs the build into a temporary prefix, moves it, and builds an outside program in the four ways that docs/abi.md and
# README promise: pkg-config and CMake, shared and static.
set -euo pipefail
source=$1 build=$2 cc=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/prefix" # a package that remembers where it was installed fails from here on
prefix=$work/prefix
libdir=$(dirname "$(find "$prefix" -name libfastkernels.a)")
export PKG_CONFIG_PATH=$libdir/pkgconfig

for file in bin/fastkernels include/fastkernels/abi.h share/fastkernels/tasks/rms_norm/task.json share/doc/fastkernels/README.md; do
  [ -e "$prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done
"$prefix/bin/fastkernels" --version

check() { # name, command...
  local name=$1
  shift
  local answer
  answer=$(LD_LIBRARY_PATH=$libdir "$@") || { echo "$name: $answer"; exit 1; }
  echo "$name: $answer"
}

"$cc" -std=c17 -Wall -Wextra -Werror -pedantic "$source/tests/consumer/main.c" -o "$work/shared" $(pkg-config --cflags --libs fastkernels) -lm
check "pkg-config, shared" "$work/shared"
grep -q libfastkernels.so.0 <<<"$(readelf -d "$work/shared")" || { echo "the shared library is not what was linked"; exit 1; }

"$cc" -std=c17 "$source/tests/consumer/main.c" -o "$work/static" $(pkg-config --cflags fastkernels) \
  $(pkg-config --static --libs fastkernels | sed 's/-lfastkernels/-l:libfastkernels.a/') -lm
check "pkg-config, static" env -u LD_LIBRARY_PATH "$work/static"
grep -q ' T TVMFFIErrorSetRaisedFromCStr' <<<"$(nm -D "$work/static")" || { echo "a static program exports no host symbols"; exit 1; }

cmake -S "$source/tests/consumer/cmake" -B "$work/cmake" -G Ninja -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
cmake --build "$work/cmake" >/dev/null
check "CMake, shared" "$work/cmake/with_fastkernels"
check "CMake, static" env -u LD_LIBRARY_PATH "$work/cmake/with_static"

# The shared library exports the public functions, and nothing but them and the two host symbols (and what
# clang emits for OpenMP reductions).
exports=$(nm -D --defined-only "$libdir/libfastkernels.so")
extra=$(awk '$2 ~ /[TDBR]/ {print $3}' <<<"$exports" | grep -v -E '^(fk_|TVMFFI|\.gomp_)' || true)
[ -z "$extra" ] || { echo "unexpected exports: $extra"; exit 1; }
for function in $(grep -ohE '\bfk_[a-z_]+\(' "$source/include/fastkernels/fastkernels.h" | sort -u | tr -d '('); do
  grep -qE "static inline .*\b$function\(|define $function\(|define FK_.*\b$function\(" "$source/include/fastkernels/"*.h && continue
  grep -q " T $function\$" <<<"$exports" || { echo "not exported: $function"; exit 1; }
done
