#!/bin/sh
# SPDX-License-Identifier: MIT
# Searches every variant of the models: check.sh DIRECTORY [MODEL]. The right ones must pass exhaustively, the broken
# ones must fail in the way that `variants` says. Working files go to DIRECTORY; those of a failed variant stay there.
# One line a variant, in the form that scripts/summarize-tests counts.
set -u

here=$(cd "$(dirname "$0")" && pwd)

skip() {
        echo "$1"
        exit 77
}

# What pan found, in the words of `variants`. Everything that is not a finished search or a violated property is an
# error of ours: too shallow, out of memory, a model that does not compile. (pan calls a search that ended with its
# first error "not completed", too.)
verdict() {
        if [ ! -s "$1/pan.out" ] || grep -Eqi 'search depth too small|out of memory|-DMEMLIM' "$1/pan.out"; then
                echo unfinished
        elif grep -q '^pan:1: invalid end state' "$1/pan.out"; then
                echo hangs
        elif grep -q '^pan:1: assertion violated' "$1/pan.out"; then
                echo breaks
        elif grep -q '^State-vector.*errors: 0$' "$1/pan.out" && ! grep -qi 'not completed' "$1/pan.out"; then
                echo right
        else
                echo unfinished
        fi
}

# -DSAFETY: no cycles are looked for, invalid end states and assertions are. Without -c0, pan stops at the first error.
search() {
        for switch in $3; do
                set -- "$@" "-D$switch"
        done
        dir=$1 model=$2 compile=$4
        shift 4
        cd "$dir" || return
        spin -a "$@" "$here/$model.pml" >spin.out 2>&1 || return
        $compile -w -DSAFETY -DNOFAIR -DMEMLIM=700 -o pan pan.c >cc.out 2>&1 || return
        ./pan -m20000 -w20 >pan.out 2>&1
}

# One variant: model, expectation, switches.
variant() {
        base=$1 model=$2 expected=$3
        shift 3
        switches=$*
        name=$model:$(echo "${switches:-as-built}" | tr ' ' '+')
        dir=$base/$name
        rm -rf "$dir"
        mkdir -p "$dir"
        # Most are searched in less time than a pan is compiled in, except by tcc.
        compile="${CC:-cc} -O0"
        if [ "$expected" = large ]; then
                compile="${CC:-cc} -O1"
                expected=right
        elif command -v tcc >/dev/null; then
                compile=tcc
        fi
        (search "$dir" "$model" "$switches" "$compile")
        found=$(verdict "$dir")
        states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$dir/pan.out" 2>/dev/null)
        if [ "$found" = "$expected" ]; then
                echo "ok - $name ($found; ${states:-?} states)"
                rm -rf "$dir"
        else
                echo "not ok - $name ($found, should be: $expected; see $dir)"
        fi
}

# Every switch that a model knows is used, and explained in README.md; every switch used is known to its model; what comments in
# the code call a switch is one.
consistent() {
        for path in "$here"/*.pml; do
                model=$(basename "$path" .pml)
                sed -n 's/^ \*  \([A-Z][A-Z_]*\(, [A-Z][A-Z_]*\)*\)  *[^ ].*/\1/p' "$path" |
                        tr -d ' ' | tr ',' '\n' | sort -u >"$1/documented"
                sed -n "s/^$model [a-z]*//p" "$here/variants" | tr ' ' '\n' | grep . | sort -u >"$1/used"
                grep -oE 'defined\([A-Z_]+\)|#ifn?def [A-Z_]+' "$path" |
                        grep -oE '[A-Z_]+[)]?$' | tr -d ')' | sort -u >"$1/known"
                # shellcheck disable=SC2016 # no command, Markdown
                sed -n "/^## $model/,/^## /p" "$here/README.md" | grep -oE '`[A-Z_ ]+`' |
                        tr -d '`' | tr ' ' '\n' | sort -u >"$1/explained"
                for list in documented known explained; do
                        missing=$(comm -23 "$1/used" "$1/$list" | tr '\n' ' ')
                        [ -z "$missing" ] || echo "$model: in variants, but not $list: $missing"
                        extra=$(comm -13 "$1/used" "$1/$list" | tr '\n' ' ')
                        [ -z "$extra" ] || echo "$model: $list, but not in variants: $extra"
                done
                cat "$here"/../../protocol/*.h "$here"/../../broker/*.[ch] "$here"/../../client/*.[ch] |
                        grep -oE "$model\\.pml [A-Z_, ]+" | sed 's/^[^ ]*//' | tr ', ' '\n\n' |
                        grep -E '^[A-Z][A-Z_]+$' | sort -u >"$1/named"
                extra=$(comm -13 "$1/used" "$1/named" | tr '\n' ' ')
                [ -z "$extra" ] || echo "$model: named in the code, but not in variants: $extra"
        done
}

if [ "${1:-}" = --variant ]; then
        shift
        variant "$@"
        exit 0
fi

dir=${1:?usage: check.sh DIRECTORY [MODEL]}/model
command -v spin >/dev/null || skip "spin is not here (Debian: spin)"
command -v "${CC:-cc}" >/dev/null || skip "no C compiler (Debian: gcc)"
mkdir -p "$dir" || exit 1
dir=$(cd "$dir" && pwd)

echo "=== report ==="
troubles=$(consistent "$dir")
if [ -z "$troubles" ]; then
        echo "ok - variants-and-readme (every switch is used, known and explained)"
else
        echo "not ok - variants-and-readme ($(echo "$troubles" | tr '\n' ';'))"
fi >"$dir/results"
cat "$dir/results"

grep -E "^${2:-[a-z]+} " "$here/variants" |
        xargs -P "${MODEL_JOBS:-2}" -L 1 "$0" --variant "$dir" |
        tee -a "$dir/results"
passed=$(grep -c '^ok' "$dir/results")
failed=$(grep -c '^not ok' "$dir/results")
wanted=$(grep -cE "^${2:-[a-z]+} " "$here/variants")
[ $((passed + failed)) -eq $((wanted + 1)) ] || failed=$((failed + 1)) # one was lost on the way
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
