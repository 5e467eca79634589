#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: run-working-set.sh BENCH-WORKING-SET PLOT.gp [OUTPUT-DIRECTORY]: work done again, without and with a replay of its
# working set; $BENCH_ROUNDS runs of each kind, $BENCH_DELAY for each request at the source.
set -eu
dir=${3:-bench-results}
mkdir -p "$dir"
rm -f "$dir/working-set-raw.csv"
BENCH_RAW="$(cd "$dir" && pwd)/working-set-raw.csv" "$1" -j1 >"$dir/working-set-table.tmp"
grep runs: "$dir/working-set-table.tmp" >"$dir/working-set-table.txt"
rm "$dir/working-set-table.tmp"
cat "$dir/working-set-table.txt"
if command -v gnuplot >/dev/null; then
        gnuplot -e "csv='$dir/working-set-raw.csv'; svg='$dir/working-set-plot.svg'" "$2"
fi
