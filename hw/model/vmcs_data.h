// SPDX-License-Identifier: MIT
// VMCSs as the model keeps them: the data in a logical processor's cache, the region in memory, and what is
// known of a VMCS wherever it is.
#ifndef MODEL_VMCS_DATA_H
#define MODEL_VMCS_DATA_H

#include "machine.h"

// --- vmcs_cache.c: the VMCS data that a logical processor holds

struct vmcs_data {
    uint64_t field[F_COUNT];
    uint8_t written[F_COUNT]; // software wrote it, or an exit saved it, since VMCLEAR initialised the region
    bool launched;
    bool shadow; // bit 31 of the revision identifier
};

struct active_vmcs {
    uint64_t region;
    struct vmcs_data data;
    uint8_t memory[PAGE_SIZE]; // what the region holds meanwhile: nobody may change it
    struct vmcs_count *count;
    struct active_vmcs *next;
};

// Makes the VMCS of `region` active here (loading it from memory unless it is) and returns it.
struct active_vmcs *vmcs_cache_activate(struct hw_cpu *cpu, uint64_t region, const char *instruction);
struct active_vmcs *vmcs_cache_find(const struct hw_cpu *cpu, uint64_t region); // NULL: not active here
void vmcs_cache_clear(struct hw_cpu *cpu, uint64_t region);                     // VMCLEAR's work
void vmcs_cache_maybe_write_back(struct hw_cpu *cpu, struct active_vmcs *vmcs); // the adversarial moment
void vmcs_cache_write_back(struct hw_cpu *cpu); // every VMCS that is active here
void vmcs_cache_check(
    struct hw_cpu *cpu); // the regions of all VMCSs active here are as the processor left them
void vmcs_cache_drop(struct hw_cpu *cpu);
void vmcs_cache_write_abort_indicator(struct hw_cpu *cpu, uint32_t indicator); // of the current VMCS

// --- vmcs_record.c: what is known of a VMCS wherever it is

struct vmcs_record {
    struct vmcs_count count;
    uint64_t left; // checksum of the region as the processor left it
    char name[48]; // "vmcs02 of vcpu 0"
};
struct vmcs_record *vmcs_record(struct machine *machine, uint64_t region);
const char *vmcs_label(const struct machine *machine, uint64_t region); // "0x10a000 (vmcs02 of vcpu 0)"

// The layout in memory (vmcs_region.c), different in every machine.
enum region_state {
    REGION_FRESH,       // never initialised by VMCLEAR
    REGION_INITIALIZED, //
    REGION_DAMAGED,     // software wrote it
    REGION_ACTIVE,      // from when the VMCS was active somewhere
    REGION_STALE,       // from an earlier VMCLEAR than the last one
};
void vmcs_region_make_layout(struct machine *machine);
uint32_t vmcs_region_revision(const struct machine *machine, uint64_t region);
enum region_state vmcs_region_load(struct machine *machine, uint64_t region, struct vmcs_data *data);
void vmcs_region_store(struct machine *machine, uint64_t region, const struct vmcs_data *data);
void vmcs_region_scatter(const struct machine *machine, uint64_t region, const struct vmcs_data *data,
                         uint64_t random);

// The current VMCS's fields, for the processor's own use: one that was never written stops the test.
uint64_t vmcs_get(struct hw_cpu *cpu, enum vmcs_field field);
uint64_t vmcs_get_unchecked(const struct hw_cpu *cpu, enum vmcs_field field); // ... or does not
void vmcs_set(struct hw_cpu *cpu, enum vmcs_field field, uint64_t value);
void vmcs_poison(struct hw_cpu *cpu, enum vmcs_field field); // what the manual leaves undefined
uint64_t model_poison(const struct machine *machine, uint64_t region, enum vmcs_field field);

#endif
