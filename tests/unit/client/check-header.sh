#!/bin/sh
# SPDX-License-Identifier: MIT
# The public header is clean under C99 and C++, by itself, with the warnings that its users may have on.
#   check-header.sh CC DIRECTORY-OF-PAGEBROKER.H
set -eu
cc=$1 include=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/use.c" << 'END'
#include <pagebroker.h>
int use(pb_client *client, const pb_client *same);
int use(pb_client *client, const pb_client *same) {
        return pb_ensure(client, 4096, 1, PB_READ) + pb_is_present(same, 4096, 1);
}
END
cp "$dir/use.c" "$dir/use.cc"
check() {
        "$@" -pedantic-errors -Wall -Wextra -Wshadow -Wconversion -Wcast-align -Werror -I"$include" -c -o "$dir/use.o"
}
check "$cc" -std=c99 -Wmissing-prototypes "$dir/use.c"
for cxx in c++ g++ clang++; do
        if command -v "$cxx" > /dev/null; then
                check "$cxx" -std=c++11 "$dir/use.cc"
                exit 0
        fi
done
echo "no C++ compiler: C99 only"
