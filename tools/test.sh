#!/bin/bash
# usage: test.sh BUILD_DIR
# Runs every test of a build. The last line counts what passed and failed; what could not run here (tests that need a GPU) is
# named and counted apart, and is no pass.
cd "${1:?usage: test.sh BUILD_DIR}" || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ctest --output-on-failure --no-label-summary 2>&1 | tee "$log" | grep -vE '^[0-9]+% tests passed'
skipped=$(grep -c '\*\*\*Skipped' "$log")
failed=$(sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+)$/\1/p' "$log")
total=$(sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+)$/\2/p' "$log")
[ -n "$total" ] || { echo "ctest came to no end"; exit 1; }
[ "$skipped" -eq 0 ] || echo "$skipped skipped: they need a GPU"
echo "$((total - failed - skipped)) passed, $failed failed"
[ "$failed" -eq 0 ]
