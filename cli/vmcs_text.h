// SPDX-License-Identifier: MIT
// A VMCS as people have it: as text. Three formats, recognised by what is in them (docs/check.md).
#ifndef PLASTRON_CLI_VMCS_TEXT_H
#define PLASTRON_CLI_VMCS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nvmx/vmcs.h>

#include "source.h"

enum vmcs_format {
    VMCS_FORMAT_OWN, // FIELD = VALUE
    VMCS_FORMAT_KVM, // what kvm_intel writes into the kernel log
    VMCS_FORMAT_XEN, // what Xen writes into its log
};

struct vmcs_text {
    enum vmcs_format format;
    unsigned first_line;
    unsigned known_count;
    uint64_t value[F_COUNT]; // 0 where unknown
    unsigned line[F_COUNT];  // where it was read; 0: unknown
};

#define VMCS_TEXT_NOTE_MAX 48

// All that one file holds, in the order in which it stands there.
struct vmcs_texts {
    struct vmcs_text *vmcs;
    size_t count, room;
    char *note[VMCS_TEXT_NOTE_MAX]; // what is odd, but readable
    size_t note_count;
};

// False, and said why with line and column, when the text is in none of the formats, or not rightly.
bool vmcs_texts_read(struct vmcs_texts *texts, struct source *source);
void vmcs_texts_free(struct vmcs_texts *texts);

const char *vmcs_format_name(enum vmcs_format format);

// --- for the readers of the formats
bool vmcs_own_read(struct vmcs_texts *texts, struct source *source);
bool vmcs_dump_read(struct vmcs_texts *texts, struct source *source);
bool vmcs_dump_is(const struct source *source);

struct vmcs_text *vmcs_texts_add(struct vmcs_texts *texts, struct source *source, size_t offset);
void vmcs_texts_note(struct vmcs_texts *texts, const char *format, ...) __attribute__((format(printf, 2, 3)));

// False, and said, when the value does not fit into the field.
bool vmcs_text_set(struct vmcs_text *vmcs, struct source *source, enum vmcs_field field, uint64_t value,
                   size_t offset);

#endif
