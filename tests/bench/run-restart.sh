#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: run-restart.sh BENCH-RESTART PLOT.gp [OUTPUT-DIRECTORY]: what a kill of the broker costs; $BENCH_KILLS of each kind.
set -eu
dir=${3:-bench-results}
mkdir -p "$dir"
rm -f "$dir/restart-raw.csv"
BENCH_RAW="$(cd "$dir" && pwd)/restart-raw.csv" "$1" -j1 >"$dir/restart-table.txt"
grep kills "$dir/restart-table.txt" >"$dir/restart-table.tmp"
mv "$dir/restart-table.tmp" "$dir/restart-table.txt"
cat "$dir/restart-table.txt"
if command -v gnuplot >/dev/null; then
        gnuplot -e "csv='$dir/restart-raw.csv'; svg='$dir/restart-plot.svg'" "$2"
fi
