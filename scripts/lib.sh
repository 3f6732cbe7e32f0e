# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What every script here shares: where things are, how to speak, and how to fail with one sentence.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$ROOT/build}
case $BUILD in /*) ;; *) BUILD=$ROOT/$BUILD ;; esac
SCRIPT=${0##*/}

say() {
    printf '%s: %s\n' "$SCRIPT" "$*"
}

die() {
    printf '%s: %s\n' "$SCRIPT" "$*" >&2
    exit 1
}

# Runs a command in silence, its output appended to log file $1, with a dot every two seconds.
# Returns the command's own status. Usage: quietly LOG COMMAND...
quietly() {
    local log=$1 pid status=0 shown=0
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    local ticks=0
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        ticks=$((ticks + 1))
        if ((ticks % 10 == 0)); then
            printf '.'
            shown=1
        fi
    done
    wait "$pid" || status=$?
    ((shown)) && printf '\n'
    return "$status"
}

# Free space, in MiB, of the file system that holds $1.
disk_free_mib() {
    df -Pm "$1" | awk 'NR == 2 { print $4 }'
}

# Ends the script unless the build tree has $1 MiB free, needed for $2.
disk_require() {
    local free
    mkdir -p "$BUILD" 2>/dev/null || die "no permission to create $BUILD: make the checkout writable for you"
    [ -w "$BUILD" ] || die "no permission to write in $BUILD: make it writable for you, or remove it"
    free=$(disk_free_mib "$BUILD")
    ((free >= $1)) || die "the disk is full: there must be $1 MiB in $BUILD for $2, and $free MiB are free; make room and try again"
}
