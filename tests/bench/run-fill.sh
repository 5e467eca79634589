#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: run-fill.sh BENCH-FILL PAGEBROKERD PLOT.gp OUTPUT-DIRECTORY LIBEXEC [ROUNDS]: the background fill against plain copies.
set -eu
dir=$4
mkdir -p "$dir"
PAGEBROKER_LIBEXEC=$5 "$1" "$2" "$dir/fill-raw.csv" ${6:-} | tee "$dir/fill-table.txt"
if command -v gnuplot >/dev/null; then
        gnuplot -e "csv='$dir/fill-raw.csv'; svg='$dir/fill-plot.svg'" "$3"
fi
