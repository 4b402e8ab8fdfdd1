#!/usr/bin/env bash
# How long a server that lost its disk takes until it votes again, under load,
# and what that costs the others. Three servers hold many items; a load of sets
# runs; one server that does not lead is killed, its folder removed, and it is
# added anew while the load goes on. Leaves no process and no file.
#
#   cargo build --release && benches/rejoin.sh
#   benches/rejoin.sh [--items 1000000] [--value-size 100] [--seconds 20] [--connections 50]
#                     [--rounds 3] [--dir DIR] [--cport 5002] [--sport 5001]
set -euo pipefail

items=1000000 value_size=100 seconds=20 connections=50 rounds=3 dir='' cport=5002 sport=5001

fail() {
    printf 'rejoin.sh: %s\n' "$*" >&2
    exit 1
}

while (($#)); do
    case $1 in
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit ;;
        --items | --value-size | --seconds | --connections | --rounds | --dir | --cport | --sport)
            (($# >= 2)) || fail "$1 needs a value"
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        *) fail "unknown option $1; see --help" ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
client=${CLIENT:-$target/client}
store=${STORE:-$target/store}
command -v "$store" >/dev/null || fail "$store is missing: build it with: cargo build --release"

work=$(mktemp -d "${dir:-${CARGO_TARGET_DIR:-$root/target}}/rejoin.XXXXXX")
data=$work/data
load_pid=''
cleanup() {
    [[ $load_pid ]] && kill "$load_pid" 2>/dev/null || true
    "$store" down --dir "$data" >"$work/down.log" 2>&1 || tail -5 "$work/down.log" >&2
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# field FILE NAME: the first value of that name in a report with one per line.
field() { sed -n "s/^ *\"$2\": \([0-9.e+-]*\),\{0,1\}$/\1/p" "$1" | head -1; }
now_ms() { date +%s%3N; }
server_status() { "$store" status --dir "$data" --lbport "$cport" --json; }

# is NAME ROLE: that server is live and votes, in this role. One that is gone
# may still be listed beside it, under the same name with a number behind it.
is() {
    server_status 2>/dev/null | python3 -c '
import json, sys
for name, server in json.load(sys.stdin)["servers"].items():
    found = (name.split("#")[0], server["state"], server["role"], server["voter"])
    if found == (sys.argv[1], "live", sys.argv[2], 1):
        sys.exit(0)
sys.exit(1)' "$1" "$2"
}

# load FILE: sets of the same keys at full speed.
load() {
    "$client" bench --lb "127.0.0.1:$cport" --op set --connections "$connections" \
        --value-size "$value_size" --keys "$items" --duration "${seconds}s" --json - >"$1"
}

"$store" up --servers 3 --dir "$data" --cport "$cport" --sport "$sport" >"$work/up.log" 2>&1 ||
    fail "\`store up\` failed: $(tail -3 "$work/up.log")"
"$client" bench --lb "127.0.0.1:$cport" --op set --prefill --keys "$items" --value-size "$value_size" \
    --pipeline 64 --duration 1s --json - >"$work/prefill.json"

printf '%s items of %s bytes, %s connections, load %s\n\n' "$items" "$value_size" "$connections" "$(cut -d' ' -f1 /proc/loadavg)"
printf '| round | voter again after s | sets/s before | sets/s meanwhile | ratio | p99 us meanwhile | errors |\n'
printf '| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n'
for ((round = 1; round <= rounds; round++)); do
    load "$work/before.json"
    victim=''
    for name in srv-3 srv-2 srv-1; do
        is "$name" follower && victim=$name && break
    done
    [[ $victim ]] || fail "no server follows: $(server_status)"
    kill -9 "$(cat "$data/$victim/lock")"
    rm -rf "${data:?}/$victim"
    load "$work/meanwhile.json" &
    load_pid=$!
    sleep 1
    begun=$(now_ms)
    "$store" addsrv --name "$victim" --dir "$data" --lbport "$sport" >"$work/addsrv.log" 2>&1 ||
        fail "\`store addsrv\` failed: $(tail -3 "$work/addsrv.log")"
    until is "$victim" follower; do
        (($(now_ms) - begun < 120000)) || fail "$victim is no voter after 120 s"
        sleep 0.1
    done
    took=$(($(now_ms) - begun))
    wait "$load_pid"
    load_pid=''
    errors=$(grep -q '"errors": {}' "$work/meanwhile.json" && echo 0 || echo some)
    awk -v round="$round" -v took="$took" -v before="$(field "$work/before.json" ops_per_s)" \
        -v meanwhile="$(field "$work/meanwhile.json" ops_per_s)" \
        -v p99="$(field "$work/meanwhile.json" p99)" -v errors="$errors" 'BEGIN {
        printf "| %d | %.1f | %.0f | %.0f | %.2f | %.0f | %s |\n", round, took / 1000, before, meanwhile, meanwhile / before, p99, errors }'
done
