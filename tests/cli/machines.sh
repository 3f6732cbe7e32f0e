# SPDX-License-Identifier: MIT
# Real machines with the puppet as L1: that the boot medium boots, and that every way to end is told apart.

bare() { # bare APPEND ARGUMENT...
    local append=$1
    shift
    run run --bare --machine bochs --timeout 120 --append "$append" "$@" "$puppet"
}

bare 'say=hello_world memory' --memory 96 --expect '^hello world$'
status_is 0
out_has '^puppet: here$'
out_has '^puppet: command line: say=hello_world memory$'
out_has '^memory 9[0-9]{4} KiB$'
err_has 'L1 ended the machine \(shutdown port\)'
report 'bochs: an image boots, with its command line'

printf 12345 >"$work/one"
printf '' >"$work/nil"
printf 1234567 >"$work/two words"
bare 'modules' --initrd "$work/one" --module "$work/two words:a  'b c' \$x;y" --module "$work/two words" --module "$work/one last"
status_is 0
out_has '^module 1: 5 bytes, ""$'
out_has '^module 2: 7 bytes, "a "b c" \$x;y"$'
out_has '^module 3: 7 bytes, ""$'
out_has '^module 4: 5 bytes, "last"$'
report 'bochs: modules with their texts, in order'

for how in 'poweroff:0:L1 powered off' 'triple:1:L1 shut down by a triple fault' 'reset:0:L1 reset the machine' \
    'reset=cf9:0:L1 reset the machine'; do
    IFS=: read -r word wanted sentence <<<"$how"
    bare "$word"
    status_is "$wanted"
    err_has "$sentence"
    err_has '[0-9] million instructions'
    report "bochs: $word: $sentence"
done

bare 'flood=300'
is_true 'lines are missing' test "$(grep -c '^line 100000[0-9]\{3\}[a-z]\{49\}$' "$work/out")" -eq 300
report 'bochs: nothing of a fast console is lost'

echo 'typed q' | "$plastron" run --bare --machine bochs --timeout 120 --append 'echo say=thanks' "$puppet" >"$work/out" 2>"$work/err"
status=$?
status_is 0
out_has 'thanks'
report 'bochs: input reaches L1'

bare 'say=one' && cp "$work/out" "$work/first" && first=$(grep -o '[0-9,]* million' "$work/err")
bare 'say=one'
is_true 'the consoles differ' cmp -s "$work/first" "$work/out"
is_true 'the clocks differ' test "$first" = "$(grep -o '[0-9,]* million' "$work/err")"
report 'bochs: two runs are the same'

run run --bare --machine bochs --cpu no_such_model --timeout 60 "$puppet"
status_is 7
err_has "the emulator failed: Bochs has no such processor model"
report 'bochs: an unknown processor model'

# Under Plastron: what L0 says reaches the user. (What L0 does is tested elsewhere.)
run run --machine bochs --timeout 120 --append 'say=hello modules' --module "$work/one last" --log "$work/log" \
    --expect '^hello$' "$puppet"
status_is 0
out_has '^puppet: command line: say=hello modules$'
out_has '^module 1: 5 bytes, "last"$'
err_has '\] starting L1 \(Multiboot 1'
err_has '^plastron: L1 ended the machine$'
err_has 'IO_INSTRUCTION +[0-9]'
is_true 'the log has no "plastron: stop: "' grep -q '^plastron: stop: ' "$work/log"
report 'bochs: the puppet under Plastron, with stages, summary and log'

cp "$work/out" "$work/first"
bare 'say=hello modules' --module "$work/one last"
is_true 'the consoles differ' cmp -s "$work/first" "$work/out"
report 'bochs: the same L1 sees the same with --bare'

# ACPI's S3, which is SLP_TYP 1 here, would wake L1 without L0; 5 means nothing. S4 and S5 are both 0.
run run --machine bochs --timeout 120 --append 'states sleep=1 sleep=5 say=alive poweroff' --log "$work/log" "$puppet"
status_is 0
out_has '^the DSDT has S4 S5 and a good checksum$'
out_has '^awake, SLP_TYP 1$'
out_has '^awake, SLP_TYP 5$'
out_has '^alive$'
err_has '^plastron: L1 powered off$'
is_true 'the log has no word of S3' grep -q 'sleep state S3, which it does not have: ignored' "$work/log"
is_true 'the log has no word of SLP_TYP 5' grep -q 'ACPI does not define (SLP_TYP 5): ignored' "$work/log"
report 'bochs: L1 has no S3, and powers off, under Plastron'

for how in 'reset:L1 reset the machine (keyboard controller)' 'reset=cf9:L1 reset the machine (port 0xcf9)'; do
    run run --machine bochs --timeout 120 --append "${how%%:*}" --log "$work/log" "$puppet"
    status_is 0
    is_true 'the log has no such stop' grep -qF "stop: ${how#*:}" "$work/log"
    report "bochs: ${how%%:*} under Plastron is told by L0"
done

run run --machine bochs --timeout 120 --append triple "$puppet"
status_is 1
err_has 'error: L1 shut down by a triple fault'
report 'bochs: a triple fault under Plastron is told by L0'

run run --machine bochs --timeout 120 "$work/text"
status_is 3
err_has 'error: refused: .*neither a Linux nor a Multiboot'
report 'bochs: an image that L0 refuses'

if command -v qemu-system-x86_64 >/dev/null; then
    for how in 'poweroff:L1 powered off' 'reset:L1 reset the machine'; do
        run run --bare --machine qemu-tcg --timeout 60 --append "say=hello ${how%%:*}" --expect '^hello$' "$puppet"
        status_is 0
        err_has "${how#*:}"
        report "qemu-tcg: ${how#*:}"
    done

    run run --machine qemu-tcg --timeout 60 "$puppet"
    status_is 3
    err_has 'refused: this processor has no VT-x'
    report 'qemu-tcg: Plastron refuses a processor without VT-x, and the machine ends'

    run run --bare --machine qemu-tcg --cpu no_such_model --timeout 60 "$puppet"
    status_is 7
    err_has "the emulator failed: .*no_such_model"
    report 'qemu-tcg: an unknown processor model'
else
    echo '# there is no qemu-system-x86_64 here: the machines qemu-* were not tried'
fi
