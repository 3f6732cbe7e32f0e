// SPDX-License-Identifier: MIT
// Every address that VMX takes, pointed at L0's memory, at holes, at devices and beyond the processor's
// width.
#include "apic.h"
#include "console.h"
#include "hostile.h"
#include "x86.h"

struct place {
    const char *name;
    uint64_t at;
};

#define PLACES 7u
static void find_places(struct place *places)
{
    uint64_t l0 = space_l0() ? space_l0() : space_hole();
    uint32_t width = x86_cpuid(0x80000008, 0).eax & 0xff;
    const struct place all[PLACES] = {
        {"L0's memory", l0},
        {"the end of L0's memory", l0 + 0x1ff000},
        {"a hole", space_hole()},
        {"the local APIC", APIC_BASE},
        {"a device's memory", 0xa0000},
        {"the last page", (1ull << width) - PAGE_SIZE},
        {"beyond the width", 1ull << width},
    };
    for (uint32_t i = 0; i < PLACES; i++)
        places[i] = all[i];
}

static const char *status_text(enum vmx_status status)
{
    return status == VMX_SUCCEED ? "succeeds" : status == VMX_FAIL_INVALID ? "VMfailInvalid" : "VMfailValid";
}

static void say_status(struct cpu *cpu, const char *instruction, const char *place, enum vmx_status status)
{
    console_print(cpu, "  %s, %s: %s", instruction, place, status_text(status));
    if (status == VMX_FAIL_VALID)
        console_print(cpu, " %lu", l2_read(VMCS_VM_INSTRUCTION_ERROR));
    console_print(cpu, "\n");
}

static const struct {
    const char *name;
    uint32_t encoding;
    uint32_t pin, primary, secondary;
    uint64_t bits;
    const char *code; // what makes use of it in L2
    uint8_t size;
} fields[] = {
    {"I/O bitmap A", VMCS_IO_BITMAP_A, 0, PRIMARY_USE_IO_BITMAPS, 0, 0, "\xe4\x80", 2},
    {"I/O bitmap B", VMCS_IO_BITMAP_B, 0, PRIMARY_USE_IO_BITMAPS, 0, 0, "\xed", 1},
    {"MSR bitmap", VMCS_MSR_BITMAP, 0, PRIMARY_USE_MSR_BITMAPS, 0, 0, "\x0f\x32", 2},
    {"virtual-APIC page", VMCS_VIRTUAL_APIC_ADDRESS, 0, PRIMARY_USE_TPR_SHADOW, 0, 0, "\x44\x0f\x20\xc0", 4},
    {"APIC-access page", VMCS_APIC_ACCESS_ADDRESS, 0, 0, SECONDARY_VIRTUALIZE_APIC_ACCESSES, 0, "\x0f\xa2",
     2},
    {"EPT pointer", VMCS_EPT_POINTER, 0, 0, SECONDARY_ENABLE_EPT, 0x1e, "\x0f\xa2", 2},
    {"EPT pointer, A and D", VMCS_EPT_POINTER, 0, 0, SECONDARY_ENABLE_EPT, 0x5e, "\x0f\xa2", 2},
    {"PML", VMCS_PML_ADDRESS, 0, 0, SECONDARY_ENABLE_PML | SECONDARY_ENABLE_EPT, 0, "\x0f\xa2", 2},
    {"VMREAD bitmap", VMCS_VMREAD_BITMAP, 0, 0, SECONDARY_VMCS_SHADOWING, 0, "\x0f\x78\xc3", 3},
    {"virtualization exceptions", VMCS_VIRTUALIZATION_EXCEPTION_ADDRESS, 0, 0, SECONDARY_EPT_VIOLATION_VE, 0,
     "\x0f\xa2", 2},
    {"EPTP list", VMCS_EPTP_LIST_ADDRESS, 0, 0, SECONDARY_ENABLE_VMFUNC, 0, "\x0f\x01\xd4", 3},
    {"posted-interrupt descriptor", VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, PIN_POSTED_INTERRUPTS,
     PRIMARY_USE_TPR_SHADOW, SECONDARY_VIRTUAL_INTERRUPT_DELIVERY, 0, "\x0f\xa2", 2},
    {"entry MSR-load list", VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, 0, 0, 0, 0, "\x0f\xa2", 2},
    {"VMCS link pointer", VMCS_VMCS_LINK_POINTER, 0, 0, 0, 0, "\x0f\xa2", 2},
};

static void try_field(struct cpu *cpu, uint32_t i, const struct place *place)
{
    struct l2 *l2 = l2_create(cpu, NULL);
    if (!l2_may_set(VMCS_PRIMARY_CONTROLS, fields[i].primary) ||
        !l2_may_set(VMCS_PIN_BASED_CONTROLS, fields[i].pin) ||
        (fields[i].secondary && !l2_may_set(VMCS_SECONDARY_CONTROLS, fields[i].secondary))) {
        console_print(cpu, "  %s: not offered\n", fields[i].name);
        vmx_vmclear(l2->vmcs);
        return;
    }
    l2_clear(VMCS_PRIMARY_CONTROLS,
             fields[i].primary & PRIMARY_USE_IO_BITMAPS ? PRIMARY_UNCONDITIONAL_IO_EXITING : 0);
    l2_set(VMCS_PRIMARY_CONTROLS, fields[i].primary);
    if (fields[i].secondary)
        l2_set_secondary(fields[i].secondary);
    if (fields[i].pin) {
        l2_set(VMCS_PIN_BASED_CONTROLS, fields[i].pin | PIN_EXTERNAL_INTERRUPT_EXITING);
        l2_set(VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
        l2_write(VMCS_VIRTUAL_APIC_ADDRESS, cpu_physical(window_memory(PAGE_KERNEL)));
    }
    if (fields[i].encoding == VMCS_VM_ENTRY_MSR_LOAD_ADDRESS)
        l2_write(VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    if (fields[i].encoding == VMCS_EPTP_LIST_ADDRESS)
        vmx_vmwrite(VMCS_VM_FUNCTION_CONTROLS, 1);
    struct probe probe = {.code = fields[i].code, .size = fields[i].size};
    probe.gpr[GPR_RCX] = 0x10;
    probe.gpr[GPR_RDX] = 0x8000;
    if (vmx_vmwrite(fields[i].encoding, place->at | fields[i].bits) != VMX_SUCCEED) {
        console_print(cpu, "  %s: not there\n", fields[i].name);
    } else {
        console_print(cpu, "  %s", fields[i].name);
        outcome_exit(cpu, place->name, probe_run_in_l2(cpu, l2, &probe), &probe);
    }
    vmx_vmclear(l2->vmcs);
}

void attack_vmcs_addresses(struct cpu *cpu)
{
    struct place places[PLACES];
    find_places(places);
    x86_write_cr4(x86_read_cr4() | CR4_VMXE);
    for (uint32_t p = 0; p < PLACES; p++) {
        enum vmx_status status = vmx_vmxon(places[p].at);
        console_print(cpu, "  VMXON, %s: %s\n", places[p].name, status_text(status));
        if (status == VMX_SUCCEED)
            vmx_vmxoff();
    }
    if (!l2_vmx_on(cpu))
        return;
    for (uint32_t p = 0; p < PLACES; p++) {
        struct l2 *l2 = l2_create(cpu, NULL);
        say_status(cpu, "VMPTRLD", places[p].name, vmx_vmptrld(places[p].at));
        // What the processor does where no memory is: nothing that could be seen. The emulator writes to
        // devices.
        if (p != 3 && p != 4)
            say_status(cpu, "VMCLEAR", places[p].name, vmx_vmclear(places[p].at));
        vmx_vmclear(l2->vmcs);
        cpu_reset_pages(cpu);
    }
    for (uint32_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        for (uint32_t p = 0; p < PLACES; p++) {
            // The emulator ends when a processor reads eight bytes of an APIC at once.
            if (p == 3 && fields[i].primary != PRIMARY_USE_TPR_SHADOW)
                continue;
            cpu_reset_pages(cpu);
            try_field(cpu, i, &places[p]);
        }
    l2_vmx_off();
}
