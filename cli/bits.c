// SPDX-License-Identifier: MIT
#include "bits.h"

#include <stdio.h>
#include <string.h>

enum bits_word bits_of_field(enum vmcs_field field)
{
    switch (field) {
    case F_PIN_BASED_CONTROLS:
        return BITS_PIN;
    case F_PRIMARY_CONTROLS:
        return BITS_PRIMARY;
    case F_SECONDARY_CONTROLS:
        return BITS_SECONDARY;
    case F_VM_EXIT_CONTROLS:
        return BITS_EXIT;
    case F_VM_ENTRY_CONTROLS:
        return BITS_ENTRY;
    case F_GUEST_CR0:
    case F_HOST_CR0:
        return BITS_CR0;
    case F_GUEST_CR4:
    case F_HOST_CR4:
        return BITS_CR4;
    case F_GUEST_IA32_EFER:
    case F_HOST_IA32_EFER:
        return BITS_EFER;
    case F_GUEST_RFLAGS:
        return BITS_RFLAGS;
    case F_GUEST_INTERRUPTIBILITY:
        return BITS_INTERRUPTIBILITY;
    case F_GUEST_PENDING_DEBUG_EXCEPTIONS:
        return BITS_PENDING_DEBUG;
    case F_VM_ENTRY_INTERRUPTION_INFO:
        return BITS_INTERRUPTION;
    default:
        return field >= F_GUEST_ES_ACCESS_RIGHTS && field <= F_GUEST_TR_ACCESS_RIGHTS ? BITS_ACCESS_RIGHTS
                                                                                      : BITS_NONE;
    }
}

const char *bits_name(enum bits_word word, unsigned number)
{
    static const struct {
        uint8_t word, number;
        const char *name;
    } bits[] = {
#define BIT(word, number, name) {BITS_##word, number, name},
#include "bits.def"
#undef BIT
    };
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (bits[i].word == word && bits[i].number == number)
            return bits[i].name;
    return NULL;
}

void bits_difference(enum vmcs_field field, uint64_t value, uint64_t legal, char *text, size_t size)
{
    enum bits_word word = bits_of_field(field);
    uint64_t differs = value ^ legal;
    size_t length = 0;
    *text = '\0';
    if (word == BITS_NONE)
        return;
    for (unsigned number = 0; number < 64 && length < size; number++) {
        if ((differs >> number & 1) == 0)
            continue;
        const char *name = bits_name(word, number);
        int written = snprintf(text + length, size - length, "%sbit %u (%s) is %u", length ? ", " : "",
                               number, name ? name : "reserved", (unsigned)(value >> number & 1));
        if (written < 0)
            return;
        length += (size_t)written;
    }
}
