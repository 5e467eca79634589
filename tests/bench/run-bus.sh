#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: run-bus.sh BENCH-BUS PAGEBROKERD PLOT.gp [OUTPUT-DIRECTORY [ROUNDS]]: the table, the raw numbers and a plot of them.
set -eu
dir=${4:-bench-results}
mkdir -p "$dir"
"$1" "$2" "$dir/bus-raw.csv" ${5:-} | tee "$dir/bus-table.txt"
if command -v gnuplot >/dev/null; then
        gnuplot -e "csv='$dir/bus-raw.csv'; svg='$dir/bus-plot.svg'" "$3"
fi
