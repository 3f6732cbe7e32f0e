// SPDX-License-Identifier: MIT
// The processor refused an entry of L2 that our checks had passed: it knows a rule that we do not know, or we
// made something of vmcs12 that breaks one. L1 gets the VMfail or the exit, and L0 goes on; the difference
// between what L1 wrote and what the processor got is a bug report.
#include "engine.h"

#define REPORTS_MAX 4 // of a vcpu: an L1 that can do it once can do it for ever

// What was never written need not be anything. vmcs02 is current.
static bool is_in_vmcs02(const struct nvmx_vcpu *vcpu, enum vmcs_field field)
{
    if (!field_set_has(&vcpu->exists_hardware, field))
        return false;
    switch ((enum field_entry)field_table[field].entry) {
    case ENTRY_NEVER:
        return false;
    case ENTRY_MERGED:
        return field_set_has(&vcpu->vmcs02.written_known, field);
    case ENTRY_EVENT: // only what belongs to an event
        return field == F_VM_ENTRY_INTERRUPTION_INFO ||
               (field == F_VM_ENTRY_EXCEPTION_ERROR_CODE &&
                (vmcs_read(vcpu, F_VM_ENTRY_INTERRUPTION_INFO) & INTERRUPTION_ERROR_CODE) != 0);
    default:
        return true;
    }
}

static void read_vmcs02(struct nvmx_vcpu *vcpu, struct port_detected line[F_COUNT])
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        line[field] = (struct port_detected){.field = field};
        if (field_table[field].type == VMCS_TYPE_INFO || !is_in_vmcs02(vcpu, field))
            continue;
        line[field].in_vmcs02 = true;
        line[field].vmcs02 = vmcs_read(vcpu, field);
    }
}

static void add_vmcs12(struct nvmx_vcpu *vcpu, struct port_detected line[F_COUNT])
{
    for (enum vmcs_field field = 0; field < F_COUNT; field++) {
        if (field_table[field].type == VMCS_TYPE_INFO || !field_set_has(&vcpu->exists_l1, field))
            continue;
        line[field].in_vmcs12 = true;
        line[field].vmcs12 = vmcs12_get(vcpu, field);
    }
}

void detector_report(struct nvmx_vcpu *vcpu, const char *what, uint64_t a, uint64_t b)
{
    struct port_detected line[F_COUNT];
    bool in_full = vcpu->refused_entry_count++ < REPORTS_MAX;
    port_log(vcpu, what, a, b);
    if (in_full)
        read_vmcs02(vcpu, line);
    if (vcpu->shutdown) // what the processor got in a shutdown's place is none of L1's
        shutdown_after_exit(vcpu);
    vmcs12_sync_rare(vcpu);
    if (!in_full)
        return;
    add_vmcs12(vcpu, line);
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (line[field].in_vmcs12 || line[field].in_vmcs02)
            port_detector(vcpu, &line[field]);
}
