#!/usr/bin/env bash
# Compares the store with memcached and etcd in one run, under the same load:
# 50 connections, 100-byte values, sets and gets, systems started one after
# another, never side by side, in rounds, so that a slow spell of the machine
# meets all of them. Prints a table of medians. Leaves no process and no file.
#
#   cargo build --release && cargo build --release -p store-client --example etcd_load
#   benches/compare.sh [--rounds 3] [--seconds 10] [--connections 50] [--value-size 100]
#                      [--keys 100000] [--only memcached,etcd,store] [--dir DIR] [--cport 5002] [--sport 5001]
#
# memcached is one process without disk or copies; etcd and the store are three
# servers each that acknowledge a set when it is synced on a majority's disks.
set -euo pipefail

rounds=3 seconds=10 connections=50 value_size=100 keys=100000
only=memcached,etcd,store dir='' cport=5002 sport=5001
memcached_port=21211 etcd_port=22379

fail() {
    printf 'compare.sh: %s\n' "$*" >&2
    exit 1
}

while (($#)); do
    case $1 in
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit ;;
        --rounds | --seconds | --connections | --value-size | --keys | --only | --dir | --cport | --sport)
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
etcd_load=${ETCD_LOAD:-$target/examples/etcd_load}
wants() { [[ ,$only, == *,$1,* ]]; }

need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }
need "$client" "build it with: cargo build --release"
wants memcached && need memcached "install it with: apt-get install memcached"
wants etcd && need etcd "install it with: apt-get install etcd-server"
wants etcd && need "$etcd_load" "build it with: cargo build --release -p store-client --example etcd_load"
wants store && need "$store" "build it with: cargo build --release"

# A directory on a disk: on a tmpfs a sync costs nothing and the figures mean nothing.
work=$(mktemp -d "${dir:-${CARGO_TARGET_DIR:-$root/target}}/compare.XXXXXX")
case $(stat -f -c %T "$work") in
    tmpfs | ramfs) printf 'compare.sh: %s is in memory, syncs cost nothing there; use --dir\n' "$work" >&2 ;;
esac

pids=()
store_runs=''

stop_processes() {
    if [[ $store_runs ]]; then
        "$store" down --dir "$store_runs" >"$work/down.log" 2>&1 ||
            printf 'compare.sh: `%s down --dir %s` failed:\n%s\n' "$store" "$store_runs" "$(tail -5 "$work/down.log")" >&2
        store_runs=''
    fi
    if ((${#pids[@]})); then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
        pids=()
    fi
}
cleanup() {
    stop_processes
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# wait_for LOG COMMAND...: until the command succeeds, for 20 s at most.
wait_for() {
    local log=$1 try
    shift
    for ((try = 0; try < 200; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    fail "no answer within 20 s to: $*; end of its log:
$(tail -5 "$log" 2>/dev/null)"
}

is_free() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null ||
        fail "port $1 is taken; stop what uses it (compare.sh uses $memcached_port, $etcd_port to $((etcd_port + 5)), and --cport, --sport for the store)"
}

start_memcached() {
    is_free $memcached_port
    local user=()
    ((EUID == 0)) && user=(-u nobody)
    memcached "${user[@]}" -l 127.0.0.1 -p $memcached_port -U 0 -m 512 -c 4096 >"$work/memcached.log" 2>&1 &
    pids+=($!)
    wait_for "$work/memcached.log" "$client" --server 127.0.0.1:$memcached_port --timeout 1s version
}

start_etcd() {
    local i cluster='' base
    for i in 0 1 2; do
        base=$((etcd_port + 2 * i))
        is_free $base
        is_free $((base + 1))
        cluster+=${cluster:+,}n$i=http://127.0.0.1:$((base + 1))
    done
    for i in 0 1 2; do
        base=$((etcd_port + 2 * i))
        etcd --name n$i --data-dir "$work/etcd-$1/n$i" --logger zap --log-outputs "$work/etcd-$i.log" \
            --listen-client-urls http://127.0.0.1:$base --advertise-client-urls http://127.0.0.1:$base \
            --listen-peer-urls http://127.0.0.1:$((base + 1)) \
            --initial-advertise-peer-urls http://127.0.0.1:$((base + 1)) \
            --initial-cluster "$cluster" --initial-cluster-state new >>"$work/etcd-$i.log" 2>&1 &
        pids+=($!)
    done
    etcd_at=(--endpoint 127.0.0.1:$etcd_port --endpoint 127.0.0.1:$((etcd_port + 2))
        --endpoint 127.0.0.1:$((etcd_port + 4)) --target-leader)
    wait_for "$work/etcd-0.log" "$etcd_load" "${etcd_at[@]}" --requests 10 --connections 1
}

start_store() {
    is_free "$cport"
    local options=(--servers 3 --dir "$work/store-$1")
    # Older forms of `up` know no ports; only ask for them when they are not the defaults.
    [[ $cport != 5002 ]] && options+=(--cport "$cport")
    [[ $sport != 5001 ]] && options+=(--sport "$sport")
    store_runs=$work/store-$1
    "$store" up "${options[@]}" >"$work/up.log" 2>&1 ||
        fail "\`$store up ${options[*]}\` failed:
$(tail -5 "$work/up.log")"
    wait_for "$work/up.log" "$client" --lb "127.0.0.1:$cport" --timeout 1s set compare ready
}

# load SYSTEM OPERATION FILE
load() {
    local common=(--op "$2" --connections "$connections" --value-size "$value_size" --keys "$keys"
        --duration "${seconds}s" --json -)
    case $1 in
        memcached) "$client" bench --server 127.0.0.1:$memcached_port "${common[@]}" ;;
        etcd) "$etcd_load" "${etcd_at[@]}" --clients-per-connection "${ETCD_CLIENTS_PER_CONNECTION:-1}" "${common[@]}" ;;
        store) "$client" bench --lb "127.0.0.1:$cport" "${common[@]}" ;;
    esac >"$3" || fail "the $2 load on $1 failed: $(tail -3 "$3")"
    grep -q '"errors": {}' "$3" ||
        printf 'compare.sh: %s %s had errors:\n%s\n' "$1" "$2" "$(sed -n '/"errors"/,/}/p' "$3")" >&2
}

# field FILE NAME: the first value of that name; the report has one per line.
field() { sed -n "s/^ *\"$2\": \([0-9.e+-]*\),\{0,1\}$/\1/p" "$1" | head -1; }

# median SYSTEM OPERATION FIELD DECIMALS
median() {
    local file
    for file in "$work/$1.$2".*.json; do field "$file" "$3"; done | sort -g |
        awk -v form="%.$4f" '{ v[NR] = $1 } END { m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; printf form, m }'
}

systems=()
for system in memcached etcd store; do wants $system && systems+=("$system"); done
((${#systems[@]})) || fail "--only names none of memcached, etcd, store"

for ((round = 1; round <= rounds; round++)); do
    for system in "${systems[@]}"; do
        printf 'round %s of %s: %s\n' "$round" "$rounds" "$system" >&2
        "start_$system" "$round"
        for operation in set get; do
            load "$system" $operation "$work/$system.$operation.$round.json"
        done
        stop_processes
        rm -rf "$work/etcd-$round" "$work/store-$round"
    done
done

printf '%s connections, values of %s bytes, %s keys, %s s each, median of %s rounds, %s cores, load %s\n\n' \
    "$connections" "$value_size" "$keys" "$seconds" "$rounds" "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
printf '| system | operation | per s | p50 us | p99 us | p99.9 us | client CPU us |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n'
for operation in set get; do
    for system in "${systems[@]}"; do
        printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$system" $operation \
            "$(median "$system" $operation ops_per_s 0)" "$(median "$system" $operation p50 0)" \
            "$(median "$system" $operation p99 0)" "$(median "$system" $operation p999 0)" \
            "$(median "$system" $operation client_cpu_us_per_op 1)"
    done
done
wants store || exit 0
printf '\n| ratio | sets | gets |\n| --- | ---: | ---: |\n'
for peer in etcd memcached; do
    wants $peer || continue
    printf '| store / %s |' $peer
    for operation in set get; do
        awk -v a="$(median store $operation ops_per_s 3)" -v b="$(median $peer $operation ops_per_s 3)" \
            'BEGIN { printf (b > 0 ? sprintf(" %.2f |", a / b) : " - |") }'
    done
    printf '\n'
done
