# SPDX-License-Identifier: MIT
# Files that are not there or not what they should be: one sentence, before anything is started.

fake '' "$work/nowhere"
status_is 2
err_has "^plastron: error: cannot read '$work/nowhere': No such file"
err_lines_are 1
nothing_started
report 'a missing image'

fake '' "$work"
status_is 2
err_has 'is not a file: it is a folder'
err_lines_are 1
nothing_started
report 'a folder as the image'

mkfifo "$work/fifo"
fake '' "$work/fifo"
status_is 2
err_has 'is not a file'
nothing_started
report 'a FIFO as the image does not hang'

if [ "$(id -u)" -ne 0 ]; then # root can read everything
    : >"$work/secret"
    chmod 0 "$work/secret"
    fake '' "$work/secret"
    status_is 2
    err_has 'Permission denied'
    nothing_started
    report 'an image that must not be read'
fi

fake '' --initrd "$work/nowhere" "$work/image"
status_is 2
err_has "cannot read '$work/nowhere'"
nothing_started
report 'a missing initrd'

fake '' --module "$work/nowhere:text" "$work/image"
status_is 2
err_has "cannot read '$work/nowhere'"
nothing_started
report 'a missing module; its text is not part of the name'

PLASTRON_HOME=$work/nothing run run --machine bochs "$work/image"
status_is 6
err_has "Plastron's image is missing: no $work/nothing/plastron.elf"
report 'no image of Plastron: status 6'

PLASTRON_HOME=$work/nothing run run --bare --machine bochs "$work/image"
status_is 6
err_has 'machine bochs cannot be used here: Bochs is not set up'
report 'no Bochs: status 6'

echo 'neither this nor that' >"$work/text"
fake '' --bare "$work/text"
status_is 3
err_has "'$work/text' is neither a Linux bzImage nor a Multiboot image"
nothing_started
report '--bare with an image of unknown kind'

: >"$work/empty"
fake '' --bare "$work/empty"
status_is 3
err_has 'is neither a Linux bzImage'
nothing_started
report '--bare with an empty image'

fake '' --log "$work/nowhere/log" "$work/image"
status_is 2
err_has "cannot write '$work/nowhere/log'"
nothing_started
report 'a log that cannot be written'

fake '' --smp 13 "$work/image"
status_is 2
err_has 'machine bochs has at most 12 processors'
nothing_started
report 'more processors than the machine can have'

fake '' --memory 4096 "$work/image"
status_is 2
err_has 'machine bochs has at most 2048 MiB'
nothing_started
report 'more memory than the machine can have'
