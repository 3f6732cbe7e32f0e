# SPDX-License-Identifier: MIT
# Commands, options and their mistakes. Sourced by tests/cli/suite.

run
status_is 2
err_has '^Usage: plastron COMMAND'
report 'no command: usage on standard error'

run --help
status_is 0
out_has '^Usage: plastron COMMAND'
out_has '^  run '
out_has '^  doctor '
err_lines_are 0
report '--help lists the commands on standard output'

run --version
status_is 0
out_has '^plastron [0-9]+\.[0-9]+\.[0-9]+$'
report '--version'

run rum
status_is 2
err_has "no command 'rum'; did you mean 'run'\\?"
report 'an unknown command that is near a known one gets a suggestion'

run frobnicate
status_is 2
err_has "no command 'frobnicate'"
err_lacks 'did you mean'
report 'an unknown command that is near nothing gets none'

run help run
status_is 0
out_has '^Usage: plastron run'
out_has '^Exit status'
for option in initrd append module smp memory cpu timeout expect log bare machine demo option stop-when-met; do
    out_has "--$option"
done
report 'help run: every option and the exit statuses are there'

run run --help
status_is 0
out_has '^Usage: plastron run'
report 'run --help'

run run
status_is 2
err_has 'no image to boot'
report 'run without an image'

run run --frob image
status_is 2
err_has "unrecognized option '--frob'"
report 'run with an unknown option'

for wrong in '--smp 0' '--smp x' '--smp 2x' '--smp 300' '--memory 0' '--memory -5' '--timeout 0' '--timeout 1.5'; do
    run run --bare $wrong "$work/image"
    status_is 2
    err_has "${wrong% *} wants a number from [0-9]+ to [0-9]+, not '${wrong#* }'"
    report "run $wrong: the message names the limits"
done

run run --bare --expect 'a(' "$work/image"
status_is 2
err_has "--expect 'a\\(' is not a regular expression"
report 'an expectation that is no regular expression'

run run --bare --stop-when-met "$work/image"
status_is 2
err_has 'needs an --expect'
report '--stop-when-met without an expectation'

run run --bare --option log=com2 "$work/image"
status_is 2
err_has '--option and --hide are for Plastron'
report '--option with --bare'

run run --bare --hide "$work/image"
status_is 2
err_has '--option and --hide are for Plastron'
report '--hide with --bare'

run run --bare "$work/image" extra
status_is 2
err_has "what is 'extra'\\?"
report 'a second image'

run run --bare --append $'a\nb' "$work/image"
status_is 2
err_has 'line break'
report 'a line break in a command line'

run run --bare --machine vax "$work/image"
status_is 2
err_has "no machine 'vax': bochs, qemu-kvm or qemu-tcg"
report 'an unknown machine'

run run --demo "$work/image"
status_is 2
err_has 'brings its own image'
report '--demo with an image'

PLASTRON_HOME=$work/fake run run --demo
status_is 2
err_has "demonstration is not made yet .*make demo"
report '--demo before it is made says how to make it'

run doctor
out_has '^  (ok|none) +VT-x'
out_has '^  (ok|no) +bochs'
out_has '^  (ok|no) +qemu-kvm'
out_has '^`plastron run` would use|^No machine'
report 'doctor lists the machines and the choice'

PLASTRON_HOME=$work/fake run doctor
status_is 0
out_has '^  ok +bochs +Bochs 3\.0$'
out_has 'would use bochs'
report 'doctor: a Bochs in PLASTRON_HOME is found'

echo 2.7 >"$work/fake/bochs/version"
PLASTRON_HOME=$work/fake run doctor
status_is 0
out_has '^  ok +bochs +Bochs 2\.7: .*slower.*no monitor trap flag'
report 'doctor says what an old Bochs lacks'
echo 3.0 >"$work/fake/bochs/version"

PLASTRON_HOME=$work/nothing run doctor
out_has '^  no +bochs +Bochs is not set up: .*make setup'
report 'doctor without Bochs says how to get it'

run doctor extra
status_is 2
report 'doctor takes no arguments'
