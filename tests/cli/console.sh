# SPDX-License-Identifier: MIT
# L1's console as the user's terminal, and ways for a run to be ended from outside.

emulator_is_gone() {
    local pid tries
    pid=$(tail -1 "$FAKE_STARTED")
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        # An orphan may stay a zombie where nobody waits for it.
        case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in '' | Z*) return 0 ;; esac
        sleep 0.2
    done
    return 1
}

wait_for() { # wait_for FILE PATTERN
    local tries
    for tries in $(seq 100); do
        grep -q "$2" "$1" 2>/dev/null && return 0
        sleep 0.1
    done
    return 1
}

fake 'read -r line <&5; l1 "got $line\n"' --timeout 1 "$work/image"
status_is 5
out_is ''
report 'with no input, L1 gets none'

export FAKE_PLAY='read -r line <&5; l1 "got $line\n"; report "00000000001p[ACPI  ] >>PANIC<< soft power off"; die 1'
echo 'some words' | PLASTRON_HOME=$work/fake "$plastron" run "$work/image" >"$work/out" 2>"$work/err"
status=$?
status_is 0
out_is 'got some words\n'
report 'standard input goes to L1'

export FAKE_PLAY='for i in $(seq 3000); do l1 "line $i\n"; done; report "00000000001p[ACPI  ] >>PANIC<< soft power off"; die 1'
: >"$FAKE_STARTED"
PLASTRON_HOME=$work/fake "$plastron" run -q "$work/image" 2>"$work/err" </dev/null | (
    sleep 1
    cat
) >"$work/out"
is_true 'lines are missing' sh -c "seq -f 'line %.0f' 3000 | cmp -s - '$work/out'"
report 'a slow reader loses nothing'

export FAKE_PLAY='while l1 "line\n"; do sleep 0.05; done'
: >"$FAKE_STARTED"
PLASTRON_HOME=$work/fake "$plastron" run "$work/image" 2>"$work/err" </dev/null | head -1 >"$work/out"
status=${PIPESTATUS[0]}
status_is 141
err_has "nobody reads L1's console any more"
is_true 'the emulator lives on' emulator_is_gone
report 'a reader that goes ends the machine'

for signal in TERM INT HUP; do
    export FAKE_PLAY='l1 "up\n"; while :; do sleep 0.1; done'
    : >"$FAKE_STARTED"
    : >"$work/out" # or wait_for would find what the last test left
    # A background job of a shell without job control ignores SIGINT: setsid -w does not bring it back, env does.
    PLASTRON_HOME=$work/fake env --default-signal=INT "$plastron" run "$work/image" >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    is_true 'L1 did not come up' wait_for "$work/out" up
    kill -$signal $pid
    wait $pid
    status=$?
    status_is $((128 + $(kill -l $signal)))
    err_has 'the machine was ended by'
    err_has 'million instructions' # from the line that Bochs writes when it is asked to end
    is_true 'the emulator lives on' emulator_is_gone
    report "SIG$signal ends the machine: $status"
done

export FAKE_PLAY='l1 "up\n"; sleep 30'
: >"$FAKE_STARTED"
: >"$work/out"
PLASTRON_HOME=$work/fake "$plastron" run "$work/image" >"$work/out" 2>"$work/err" </dev/null &
pid=$!
is_true 'L1 did not come up' wait_for "$work/out" up
{
    kill -KILL $pid
    wait $pid
} 2>/dev/null
is_true 'the emulator lives on' emulator_is_gone
report 'killed with SIGKILL, it takes the emulator with it'

# On a terminal. `script` makes one, and types what it reads.
type_keys() { # type_keys PLAY KEYS...: types them once L1 is up; what the terminal showed is in $work/out
    export FAKE_PLAY=$1
    shift
    : >"$FAKE_STARTED"
    : >"$work/out"
    : >"$work/err"
    (
        wait_for "$work/out" 'up'
        for keys in "$@"; do
            printf '%b' "$keys"
            sleep 2
        done
    ) | PLASTRON_HOME=$work/fake script -qefc "$plastron run $work/image; echo status \$?; stty -a" /dev/null >"$work/out" 2>&1
}

type_keys 'l1 "up\n"; sleep 30' '\003'
out_has '^status 130'
out_has ' icanon '
out_has ' echo '
is_true 'the emulator lives on' emulator_is_gone
report 'Ctrl-C ends the machine and the terminal is as it was'

type_keys 'l1 "up\n"; sleep 30' '\001x'
out_has '^status 130'
report 'Ctrl-A x ends the machine'

type_keys 'l1 "up\n"; l1 "got $(head -c 3 <&5 | od -An -c)\n"; sleep 30' '\001c\001a\032' '\001x'
out_has '^got +003 +001 +032'
out_has '^status 130'
report 'Ctrl-A c, Ctrl-A a and Ctrl-Z go to L1'
