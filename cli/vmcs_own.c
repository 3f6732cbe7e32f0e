// SPDX-License-Identifier: MIT
// Our own format: one FIELD = VALUE a line; a field is named as in include/nvmx/vmcs_fields.def or by its
// encoding; "default = VALUE" stands for every field that is not named; # begins a comment.
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "field.h"
#include "names.h"
#include "vmcs_text.h"

enum { NAME_MAX_LENGTH = 64 };

struct own_line {
    size_t start, end; // without the line's end and its comment
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static void trim(const struct source *source, struct own_line *part)
{
    while (part->start < part->end && is_blank(source->text[part->start]))
        part->start++;
    while (part->end > part->start && is_blank(source->text[part->end - 1]))
        part->end--;
}

// The next line that says something, from *at on; false at the end.
static bool next_line(const struct source *source, size_t *at, struct own_line *line)
{
    while (*at < source->size) {
        const char *start = source->text + *at;
        const char *newline = memchr(start, '\n', source->size - *at);
        size_t length = newline ? (size_t)(newline - start) : source->size - *at;
        const char *comment = memchr(start, '#', length);
        *line = (struct own_line){*at, *at + (comment ? (size_t)(comment - start) : length)};
        *at += length + (newline != NULL);
        trim(source, line);
        if (line->start < line->end)
            return true;
    }
    return false;
}

static bool unknown_field(struct source *source, const struct own_line *name, const char *text)
{
    uint64_t encoding;
    const char *nearest = names_field_nearest(text);
    if (names_number(text, strlen(text), &encoding) && encoding <= UINT32_MAX &&
        field_find((uint32_t)encoding & ~VMCS_HIGH) != F_COUNT)
        source_error(source, name->start, "%s is the high half of %s: give the whole value there", text,
                     vmcs_field_name(field_find((uint32_t)encoding & ~VMCS_HIGH)));
    else if (nearest)
        source_error(source, name->start, "there is no field '%s'; did you mean %s?", text, nearest);
    else
        source_error(source, name->start, "there is no field '%s'; `plastron fields` lists them", text);
    return false;
}

static bool take(struct vmcs_text *vmcs, struct source *source, const struct own_line *name,
                 const struct own_line *value, struct own_line *otherwise)
{
    char text[NAME_MAX_LENGTH];
    uint64_t number;
    snprintf(text, sizeof(text), "%.*s", (int)(name->end - name->start), source->text + name->start);
    if (!names_number(source->text + value->start, value->end - value->start, &number)) {
        source_error(source, value->start, "'%.*s' is not a number of 64 bits (write 0x1f or 31)",
                     (int)(value->end - value->start > 40 ? 40 : value->end - value->start),
                     source->text + value->start);
        return false;
    }
    if (strcasecmp(text, "default") == 0) {
        *otherwise = *value;
        return true;
    }
    enum vmcs_field field = names_field(text);
    if (field == F_COUNT)
        return unknown_field(source, name, text);
    if (vmcs->line[field] != 0) {
        source_error(source, name->start, "%s again: line %u says it already", vmcs_field_name(field),
                     vmcs->line[field]);
        return false;
    }
    return vmcs_text_set(vmcs, source, field, number, value->start);
}

static bool apply_default(struct vmcs_text *vmcs, struct source *source, const struct own_line *otherwise)
{
    uint64_t number = 0;
    names_number(source->text + otherwise->start, otherwise->end - otherwise->start, &number);
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (vmcs->line[field] == 0 &&
            !vmcs_text_set(vmcs, source, field, number & field_mask(field), otherwise->start))
            return false;
    return true;
}

bool vmcs_own_read(struct vmcs_texts *texts, struct source *source)
{
    struct own_line line, otherwise = {0, 0};
    struct vmcs_text *vmcs = vmcs_texts_add(texts, source, 0);
    if (!vmcs)
        return false;
    for (size_t at = 0; next_line(source, &at, &line);) {
        const char *equals = memchr(source->text + line.start, '=', line.end - line.start);
        if (!equals) {
            source_error(
                source, line.start, "neither FIELD = VALUE nor anything of a dump by Linux or Xen: '%.*s'",
                (int)(line.end - line.start > 40 ? 40 : line.end - line.start), source->text + line.start);
            return false;
        }
        size_t middle = (size_t)(equals - source->text);
        struct own_line name = {line.start, middle}, value = {middle + 1, line.end};
        trim(source, &name);
        trim(source, &value);
        if (name.start == name.end || value.start == value.end) {
            source_error(source, middle,
                         "a %s is missing beside the =", name.start == name.end ? "field" : "value");
            return false;
        }
        if (!take(vmcs, source, &name, &value, &otherwise))
            return false;
    }
    if (vmcs->known_count == 0 && otherwise.end == 0) {
        source_error(source, source->size, "there is no VMCS in here");
        return false;
    }
    return otherwise.end == 0 || apply_default(vmcs, source, &otherwise);
}
