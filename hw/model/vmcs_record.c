// SPDX-License-Identifier: MIT
// What a machine knows of each VMCS, wherever its data is: what it is called in the test's sentences, how
// often software did what to it, and what its region looked like when a processor last let go of it.
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct vmcs_record *find(const struct machine *machine, uint64_t region)
{
    for (unsigned i = 0; i < machine->record_count; i++)
        if (machine->record[i]->count.region == region)
            return machine->record[i];
    return NULL;
}

struct vmcs_record *vmcs_record(struct machine *machine, uint64_t region)
{
    struct vmcs_record *record = find(machine, region);
    if (record != NULL)
        return record;
    if (machine->record_count == sizeof(machine->record) / sizeof(machine->record[0]))
        rule_broken(NULL, "more VMCSs than the model keeps records of");
    record = calloc(1, sizeof(*record));
    record->count.region = region;
    return machine->record[machine->record_count++] = record;
}

void machine_name_vmcs(struct machine *machine, uint64_t region, const char *name)
{
    struct vmcs_record *record = vmcs_record(machine, region);
    snprintf(record->name, sizeof(record->name), "%s", name);
}

const char *vmcs_label(const struct machine *machine, uint64_t region)
{
    static char labels[4][96]; // a sentence may hold several
    static unsigned next;
    char *label = labels[next++ % 4];
    const struct vmcs_record *record = find(machine, region);
    bool named = record != NULL && record->name[0] != 0;
    snprintf(label, sizeof(labels[0]), "%#llx%s%s%s", (unsigned long long)region, named ? " (" : "",
             named ? record->name : "", named ? ")" : "");
    return label;
}

const struct vmcs_count *machine_count(struct machine *machine, uint64_t region)
{
    return &vmcs_record(machine, region)->count;
}

void machine_reset_counts(struct machine *machine)
{
    for (unsigned i = 0; i < machine->record_count; i++) {
        struct vmcs_count *count = &machine->record[i]->count;
        *count = (struct vmcs_count){.region = count->region};
    }
}
