// SPDX-License-Identifier: MIT
#include "machine.h"

#include <stdio.h>
#include <string.h>

static const struct machine_kind *const kinds[] = {&machine_bochs, &machine_qemu_kvm, &machine_qemu_tcg};

const struct machine_kind *machine_kind_at(size_t index)
{
    return index < sizeof(kinds) / sizeof(kinds[0]) ? kinds[index] : NULL;
}

const struct machine_kind *machine_kind_find(const char *name)
{
    const struct machine_kind *kind;
    for (size_t i = 0; (kind = machine_kind_at(i)); i++) {
        if (strcmp(kind->name, name) == 0)
            return kind;
    }
    return NULL;
}

void machine_state_end(struct machine_state *state, enum ending ending, const char *detail)
{
    if (state->ending != ENDING_NONE)
        return; // the first reason is the reason
    state->ending = ending;
    snprintf(state->detail, sizeof(state->detail), "%s", detail);
}

void machine_explain_by_last_line(struct machine_state *state, char *printed)
{
    size_t length = strlen(printed);
    while (length && strchr("\r\n ", printed[length - 1]))
        printed[--length] = '\0';
    char *line = strrchr(printed, '\n');
    machine_state_end(state, ENDING_EMULATOR, line ? line + 1 : printed);
}
