# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the scripts that run under systemd: a machine called web1 with an image of 8 MiB.
set -eu

unit=pagebroker@web1.service
socket=pagebroker@web1.socket
address=/run/pagebroker/web1.sock
image=/srv/web1.memory
reader=$BUILD/tests/systemd/reader

mkdir -p /srv
# Every page is different, and no byte of the first is zero.
seq 1300000 | head -c 8388608 >"$image"
cat >/etc/pagebroker/web1.conf <<CONF
memory = "ram,source=file:$image"
fill = off
allow = device:root
allow = observer:root
CONF

fail() {
        echo "FAIL: $*"
        exit 1
}

property() {
        systemctl show --value -p "$1" "${2-$unit}"
}

# Looks again and again until the command succeeds.
eventually() {
        tries=0
        until "$@"; do
                tries=$((tries + 1))
                [ $tries -lt 12000 ] || fail "never came true: $*"
                sleep 0.01
        done
}

is() {
        [ "$(property "$1" "${3-$unit}")" = "$2" ]
}

expect() {
        is "$@" || fail "$1 of ${3-$unit} is '$(property "$1" "${3-$unit}")', not '$2'"
}

reads_the_image() {
        said=$("$reader" "$address" "$image") || fail "reader: $said"
        [ "$said" = same ] || fail "reader: $said"
}

# A client reads half of the memory from one broker; the command puts another in its place; the client reads the rest, and
# sees nothing of it.
client_goes_on_over() {
        systemctl start "$unit"
        mkfifo /run/go
        "$reader" "$address" "$image" half </run/go >/run/said &
        client=$!
        exec 3>/run/go
        eventually grep -q half /run/said
        [ "$(property NFileDescriptorStore)" -gt 0 ] || fail "nothing is in the descriptor store"
        pid=$(property MainPID)
        "$@" || fail "$*"
        eventually is_another_than "$pid"
        restarts=$(property NRestarts)
        echo go >&3
        wait $client || fail "reader: $(cat /run/said)"
        [ "$(tail -n 1 /run/said)" = same ] || fail "reader: $(cat /run/said)"
        expect NRestarts "$restarts"
}

# In this order: of a broker that has just died systemd says "running" until it knows.
is_another_than() {
        ! is MainPID "$1" && is SubState running
}
