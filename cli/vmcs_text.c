// SPDX-License-Identifier: MIT
#include "vmcs_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "field.h"
#include "say.h"

#define VMCS_COUNT_MAX 4096

const char *vmcs_format_name(enum vmcs_format format)
{
    static const char *const names[] = {
        [VMCS_FORMAT_OWN] = "FIELD = VALUE",
        [VMCS_FORMAT_KVM] = "a dump by Linux's kvm_intel",
        [VMCS_FORMAT_XEN] = "a dump by Xen",
    };
    return names[format];
}

struct vmcs_text *vmcs_texts_add(struct vmcs_texts *texts, struct source *source, size_t offset)
{
    if (texts->count == VMCS_COUNT_MAX) {
        source_error(source, offset, "more than %d VMCSs in one file", VMCS_COUNT_MAX);
        return NULL;
    }
    if (texts->count == texts->room) {
        size_t room = texts->room ? 2 * texts->room : 4;
        struct vmcs_text *vmcs = realloc(texts->vmcs, room * sizeof(*vmcs));
        if (!vmcs) {
            say_error("%s: out of memory", source->name);
            return NULL;
        }
        texts->vmcs = vmcs;
        texts->room = room;
    }
    struct vmcs_text *vmcs = &texts->vmcs[texts->count++];
    memset(vmcs, 0, sizeof(*vmcs));
    vmcs->first_line = source_line(source, offset);
    return vmcs;
}

void vmcs_texts_note(struct vmcs_texts *texts, const char *format, ...)
{
    if (texts->note_count == VMCS_TEXT_NOTE_MAX)
        return;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&texts->note[texts->note_count], format, arguments) >= 0)
        texts->note_count++;
    va_end(arguments);
}

bool vmcs_text_set(struct vmcs_text *vmcs, struct source *source, enum vmcs_field field, uint64_t value,
                   size_t offset)
{
    if ((value & ~field_mask(field)) != 0) {
        source_error(source, offset, "%#llx does not fit into %s, which has %u bits",
                     (unsigned long long)value, vmcs_field_name(field),
                     field_mask(field) == 0xffff ? 16u : 32u);
        return false;
    }
    if (vmcs->line[field] == 0)
        vmcs->known_count++;
    vmcs->value[field] = value;
    vmcs->line[field] = source_line(source, offset);
    return true;
}

bool vmcs_texts_read(struct vmcs_texts *texts, struct source *source)
{
    *texts = (struct vmcs_texts){0};
    source_unquote_mail(source);
    return vmcs_dump_is(source) ? vmcs_dump_read(texts, source) : vmcs_own_read(texts, source);
}

void vmcs_texts_free(struct vmcs_texts *texts)
{
    for (size_t i = 0; i < texts->note_count; i++)
        free(texts->note[i]);
    free(texts->vmcs);
    *texts = (struct vmcs_texts){0};
}
