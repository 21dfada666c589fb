#!/bin/bash
# Installs what a build, the demo and the tests need and this machine lacks (Debian and its relatives, by apt-get).
# Silent when nothing is missing. `setup.sh test` adds what only `make test` needs.
set -u
for_tests=${1:-}

pkg() { pkg-config --exists "$1" 2>/dev/null; }
header() { echo "#include <$1>" | cc -E "${@:2}" -x c - >/dev/null 2>&1; }
openmp_blas() {
  local dir
  for dir in /usr/lib/*/openblas-openmp /usr/lib64 /usr/local/lib; do
    [ -e "$dir/libopenblas.so" ] && return 0
  done
  return 1
}

browser() {
  local name
  for name in "${FK_CHROMIUM:-chromium}" chromium-browser google-chrome; do
    command -v "$name" && return 0
  done
  return 1
}

# package | how to see that it is there | what it is for
requirements() {
  cat <<'LIST'
gcc|command -v cc && header stdio.h|the C compiler
libc6-dev|header stdio.h|the C library's headers
cmake|command -v cmake|configures the build
ninja-build|command -v ninja|runs the build
pkg-config|command -v pkg-config|finds libraries
libjansson-dev|pkg jansson|reads and writes JSON
libpcre2-dev|pkg libpcre2-8|splits text for the tokenizer
libopenblas-openmp-dev|openmp_blas|float32 matrix products of the CPU baseline
libdnnl-dev|header oneapi/dnnl/dnnl.h|bfloat16 and float16 matrix products of the CPU baseline
libcmocka-dev|header cmocka.h -include stdarg.h -include stddef.h -include setjmp.h -include stdint.h|the unit tests
python3-venv|python3 -c "import ensurepip, venv"|the test that loads a kernel from Python (never needed at run time)
LIST
  [ "$for_tests" = test ] && echo 'chromium|browser|the test that renders a report (about 100 MB)'
}

missing() {
  local package check why
  while IFS='|' read -r package check why; do
    eval "$check" >/dev/null 2>&1 </dev/null || echo "$package|$why"
  done < <(requirements)
}

lacking=$(missing)
[ -z "$lacking" ] && exit 0

echo "setup: this machine lacks:"
while IFS='|' read -r package why; do printf '  %-24s %s\n' "$package" "$why"; done <<<"$lacking"
packages=$(cut -d'|' -f1 <<<"$lacking" | tr '\n' ' ')

if ! command -v apt-get >/dev/null; then
  echo "setup: there is no apt-get here. Install the equivalents of: $packages" >&2
  exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: installing needs root and there is no sudo. As root: apt-get install $packages" >&2
    exit 1
  fi
  as_root=sudo
fi
echo "setup: installing with apt-get"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { $as_root apt-get update && $as_root apt-get install -y --no-install-recommends $packages; } >"$log" 2>&1; then
  tail -n 15 "$log" >&2
fi
hash -r
lacking=$(missing)
if [ -n "$lacking" ]; then
  echo "setup: apt-get could not provide: $(cut -d'|' -f1 <<<"$lacking" | tr '\n' ' ')" >&2
  exit 1
fi
echo "setup: done"
