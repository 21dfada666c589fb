#!/bin/bash
# usage: fuzz.sh BUILD_DIR SECONDS; runs every fuzz target over its corpus. New inputs stay in BUILD_DIR/corpus.
set -u
build=$1 seconds=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/fuzz" && pwd)
failed=0
for source in "$here"/fuzz_*.c; do
  name=$(basename "$source" .c) subject=${name#fuzz_}
  mkdir -p "$build/corpus/$subject"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -artifact_prefix="$build/$subject-" -print_final_stats=0)
  [ -f "$here/$subject.dict" ] && options+=(-dict="$here/$subject.dict")
  echo "fuzz $subject: $seconds s"
  if ! "$build/$name" "${options[@]}" "$build/corpus/$subject" "$here/corpus/$subject" >"$build/$subject.log" 2>&1; then
    tail -n 40 "$build/$subject.log"
    failed=1
  fi
done
exit $failed
