#!/bin/sh
# SPDX-License-Identifier: MIT
# Compiles what the man pages show: every literal block that starts with an #include.
#   check-examples.sh CC DIRECTORY-OF-PAGEBROKER.H PAGE.scd...
set -eu
cc=$1 include=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for page; do
        # \\ is how scdoc writes a backslash.
        awk -v out="$dir/$(basename "$page" .scd)" '
                /^```/ { inside = !inside; n += inside; first = inside; next }
                !inside { next }
                first { keep = /^#include/; first = 0 }
                keep { gsub(/\\\\/, "\\"); print > (out "-" n ".c") }' "$page"
        ls "$dir/$(basename "$page" .scd)"-*.c > /dev/null || { echo "$page: no example"; exit 1; }
done
for source in "$dir"/*.c; do
        basename "$source"
        "$cc" -std=gnu11 -Wall -Wextra -Werror -I"$include" -fsyntax-only "$source"
done
