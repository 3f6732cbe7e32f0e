# SPDX-License-Identifier: MIT
# How a run is judged, on a Bochs that performs a play: exit statuses, the sentence, the summary.

end='report "00123456789p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested"; die 1'
off='report "00123456789p[ACPI  ] >>PANIC<< ACPI control: soft power off"; die 1'

fake "l0 'plastron: stage: hello'; l0 'plastron: stop: L1 powered off'; $off" "$work/image"
status_is 0
err_has '\] hello$'
err_has '^plastron: L1 powered off$'
err_has ' 123 million instructions'
out_is ''
report 'L1 powers off: 0, with the stage and the clock'

fake "l0 'plastron: stat: tsc=5000000'
l0 'plastron: exit: level=1 reason=10 name=CPUID count=1200'
l0 'plastron: exit: level=2 reason=10 name=CPUID count=34'
l0 'plastron: exit: level=2 reason=48 name=EPT_VIOLATION count=5678'
l0 'plastron: stop: L1 powered off'; $off" "$work/image"
status_is 0
err_has 'CPUID +1,200 +34$'
err_has 'EPT_VIOLATION +0 +5,678$'
err_has 'all +1,200 +5,712$'
is_true 'EPT_VIOLATION is not the first row' \
    sh -c "grep -A1 'by reason' '$work/err' | tail -1 | grep -q EPT_VIOLATION"
report 'exits by reason and level, the most frequent first'

fake "$(for i in $(seq 20); do echo "l0 'plastron: exit: level=1 reason=$i name=REASON_$i count=$i'"; done); $off" "$work/image"
err_has 'REASON_20 '
err_lacks 'REASON_1 '
err_has 'other reasons +[0-9]'
err_has 'all +210 '
report 'rare reasons are added up'

fake "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do l0 \"plastron: vcpu 1: VM entry: RULE_\$i: a field 0x0001: wrong (Section)\"; done
l0 'plastron: stop: L1 powered off'; $off" "$work/image"
status_is 0
err_has "L1's VM entry fails on vcpu 1: RULE_12: a field 0x0001: wrong \(Section\)"
err_lacks 'RULE_13'
err_has 'go on failing'
report 'which rules failed VM entries broke is said, but not without end'

fake "l0 'plastron: stop: L1 shut down by a triple fault'; $end" "$work/image"
status_is 1
err_has '^plastron: error: L1 shut down by a triple fault$'
report 'a triple fault of L1: 1'

fake "l0 'plastron: stop: L1 stopped by a VMX abort'; $end" "$work/image"
status_is 1
err_has '^plastron: error: L1 stopped by a VMX abort$'
report 'a VMX abort of L1: 1'

fake "report '00000000042e[CPU0  ] exception(): 3rd (13) exception with no resolution, shutdown status is 00h, resetting'
report '00000000042i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called'; sleep 30" --bare "$work/image"
status_is 1
err_has 'error: L1 shut down by a triple fault'
report 'the same with --bare, told by Bochs: 1, and Bochs is not waited for'

fake "report '00000000042e[CPU0  ] exception(): 3rd (13) exception with no resolution'; sleep 30" "$work/image"
status_is 4
err_has 'Plastron died of a triple fault'
report 'a triple fault that L0 does not report is its own: 4'

fake "report '00000000042i[SYS   ] bx_pc_system_c::Reset(SOFTWARE) called'; sleep 30" --bare "$work/image"
status_is 0
err_has 'L1 reset the machine'
report 'a reset ends the run: 0'

fake "l0 'plastron: panic: no idea'; l0 'plastron: stop: L0 has a defect'; $end" --expect x "$work/image"
status_is 4
err_has '^plastron: error: Plastron panicked: no idea$'
report 'a panic of L0: 4, whatever was expected'

fake "l1 'x\\n'; l0 'plastron: refuse: the image is truncated'; l0 'plastron: stop: refused'; $end" --expect x "$work/image"
status_is 3
err_has '^plastron: error: refused: the image is truncated$'
report 'L0 refuses: 3, whatever was seen'

fake "l0 'plastron: stage: GRUB is loading the files'; l0 'error: no such thing.'; l0 'error: nothing loaded.'
l0 'plastron: refuse: GRUB could not load the image'; $off" "$work/image"
status_is 3
err_has '^plastron: error: GRUB could not load the image: no such thing\.$'
report 'GRUB refuses: 3, with its first error'

fake "die 1 '========\\nBochs is exiting with the following message:\\n[     ] out of luck\\n========\\n'" "$work/image"
status_is 7
err_has 'the emulator failed: .*out of luck$'
report 'Bochs fails: 7, with its message'

fake "report '00000000009p[MEM0  ] >>PANIC<< out of memory'; die 1" "$work/image"
status_is 7
err_has 'the emulator failed: out of memory$'
report 'Bochs panics: 7, with its message'

fake 'sleep 30' --timeout 1 "$work/image"
status_is 5
err_has 'the time was up \(1 s\)'
report 'the time is up: 5'

fake "report '00000000009i[CPU0  ] WARNING: HLT instruction with IF=0!'; sleep 30" --timeout 1 --bare "$work/image"
status_is 5
err_has 'the time was up \(1 s\); a processor executed HLT with interrupts disabled'
report 'the time is up: what may explain it is said'

fake "l0 'plastron: stop: L1 powered off'; sleep 30" "$work/image"
status_is 0
err_has 'L1 powered off'
report 'a machine that does not end after L0 said so is ended'

fake "l1 'one\\ntwo\\n'; $off" --expect '^two$' --expect one "$work/image"
status_is 0
err_has 'seen: +\^two\$$'
out_is 'one\ntwo\n'
report 'every expected line is seen: 0'

fake "l1 'one\\ntwo\\n'; $off" --expect '^two$' --expect three "$work/image"
status_is 1
err_has 'error: .*not everything was seen'
err_has 'error: never seen: three'
report 'an expected line is not seen: 1, and it is named'

fake "l1 'one\\n'; l0 'plastron: stop: L1 shut down by a triple fault'; $end" --expect one "$work/image"
status_is 0
report 'with an expectation met, even a triple fault is success'

fake "l1 'login: '; sleep 30" --expect '^login: $' --stop-when-met --timeout 1 "$work/image"
err_has 'the time was up'
report 'an open line does not meet an expectation of its end'

fake "l1 'login: '; sleep 30" --expect '^login: ' --stop-when-met --timeout 20 "$work/image"
status_is 0
err_has 'all was seen that was expected'
report '--stop-when-met ends the machine at a prompt'

fake "l1 'ok\\n'; sleep 30" --expect ok --timeout 1 "$work/image"
status_is 0
err_has 'the time was up, and all was seen'
report 'the time is up, but all was seen: 0'

fake "l1 '\\033[1;32mgr\\033[0meen\\r\\n'; $off" --expect '^green$' "$work/image"
status_is 0
report 'colours and carriage returns do not hide a line'

fake "l1 'a'; sleep 0.2; l1 'b'; sleep 0.2; l1 'c'; $off" --expect '^abc$' "$work/image"
status_is 0
report 'a line that comes in pieces and has no end'

fake "l1 'hello\\n'; l0 'plastron: free text'; l0 'plastron: stop: x'; $off" -q --log "$work/log" "$work/image"
status_is 0
out_is 'hello\n'
err_lines_are 0
is_true 'the log is not what L0 wrote' sh -c "printf 'plastron: free text\nplastron: stop: x\n' | cmp -s - '$work/log'"
report '--quiet says nothing; --log keeps what L0 wrote'

fake "l0 'plastron: free text'; $off" -v "$work/image"
err_has 'L0: free text'
report "--verbose shows L0's log"

export FAKE_KEEP=$work/configuration
fake "$off" --smp 3 --memory 96 --cpu corei7_haswell_4770 "$work/image"
is_true 'processors or model are wrong' grep -q '^cpu: model=corei7_haswell_4770, count=3,' "$FAKE_KEEP"
is_true 'memory is wrong' grep -q '^memory: guest=96, host=96$' "$FAKE_KEEP"
unset FAKE_KEEP
report 'processors, memory and model reach the machine'

mkdir -p "$work/fake/demo"
for file in vmlinuz initrd.img; do echo "$file" >"$work/fake/demo/$file"; done
echo 'console=ttyS0 quiet' >"$work/fake/demo/cmdline"
export FAKE_KEEP=$work/configuration
fake "l1 'L2: Linux 6.1.0 on KVMKVMKVM\\n'; $off" --demo
status_is 0
err_has 'seen: +\^L2: Linux'
is_true 'it has not two processors' grep -q '^cpu: .*count=2,' "$FAKE_KEEP"
is_true 'it has not 1024 MiB' grep -q '^memory: guest=1024,' "$FAKE_KEEP"
unset FAKE_KEEP
report '--demo: two processors, 1024 MiB, and 0 if L2 was seen'

fake "l1 'L1: L2: Linux 6.1.0 on KVMKVMKVM?\\n'; $off" --demo
status_is 1
err_has 'never seen: \^L2: Linux'
report '--demo: 1 if L2 was not seen, whatever else was'

fake "l1 'L2: Linux 6.1.0 on KVMKVMKVM\\n'; l0 'plastron: panic: oops'; $end" --demo
status_is 4
report '--demo: 4 if L0 panics, even after L2 was seen'
rm -r "$work/fake/demo"
