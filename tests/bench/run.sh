#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: run.sh BENCH PAGEBROKERD PLOT.gp [OUTPUT-DIRECTORY [ROUNDS]]: the table, the raw numbers and a plot of them.
set -eu
dir=${4:-bench-results}
mkdir -p "$dir"
"$1" "$2" "$dir/raw.csv" ${5:-} | tee "$dir/table.txt"
if command -v gnuplot >/dev/null; then
        gnuplot -e "csv='$dir/raw.csv'; svg='$dir/plot.svg'" "$3"
        echo "raw numbers: $dir/raw.csv; plot: $dir/plot.svg"
else
        echo "raw numbers: $dir/raw.csv; no plot, because gnuplot is not here"
fi
