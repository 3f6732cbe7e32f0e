// SPDX-License-Identifier: MIT
// Names of the bits of controls, registers and capabilities.
#ifndef PLASTRON_CLI_BITS_H
#define PLASTRON_CLI_BITS_H

#include <stddef.h>
#include <stdint.h>

#include <nvmx/vmcs.h>

enum bits_word {
    BITS_NONE,
    BITS_PIN,
    BITS_PRIMARY,
    BITS_SECONDARY,
    BITS_EXIT,
    BITS_ENTRY,
    BITS_CR0,
    BITS_CR4,
    BITS_EFER,
    BITS_RFLAGS,
    BITS_ACCESS_RIGHTS,
    BITS_INTERRUPTIBILITY,
    BITS_PENDING_DEBUG,
    BITS_INTERRUPTION,
    BITS_BASIC,
    BITS_MISC,
    BITS_EPT_VPID,
    BITS_VMFUNC,
};

// What the bits of a field are; BITS_NONE: no names.
enum bits_word bits_of_field(enum vmcs_field field);

// The bit's name, or NULL where the manual has none.
const char *bits_name(enum bits_word word, unsigned number);

// What differs, as a sentence's part: "bit 9 (IF) is 0". At most `size` bytes; "" when there is nothing to
// say.
void bits_difference(enum vmcs_field field, uint64_t value, uint64_t legal, char *text, size_t size);

#endif
