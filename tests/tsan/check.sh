#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check.sh races|clean PROGRAM
# "clean": the program must end well and ThreadSanitizer must find nothing. "races": it must find a data race.
set -u
# What it finds depends on how the threads meet: a broken program gets several tries, a clean one must be clean in each.
tries=5
while [ $tries -gt 0 ]; do
        # To standard error, wherever the caller wants its reports.
        out=$(TSAN_OPTIONS=halt_on_error=1:exitcode=99:second_deadlock_stack=1 "$2" 2>&1)
        status=$?
        case $1 in
        clean)
                if [ $status -ne 0 ]; then
                        printf '%s\n' "$out" | head -60
                        exit 1
                fi
                ;;
        races)
                if [ $status -ne 0 ] && printf '%s' "$out" | grep -q 'WARNING: ThreadSanitizer: data race'; then
                        exit 0
                fi
                ;;
        esac
        tries=$((tries - 1))
done
[ "$1" = clean ] && exit 0
echo "ThreadSanitizer did not notice that the order is broken (last status $status)"
exit 1
