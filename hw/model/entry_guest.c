// SPDX-License-Identifier: MIT
// The third stage of VM entry: the guest-state area. NULL, or the rule that is broken and the exit
// qualification that tells (2 PDPTE, 4 link pointer; else 0).
// Manual: Checking and Loading Guest State.
#include "model.h"

#define QUALIFICATION_PDPTE        2
#define QUALIFICATION_LINK_POINTER 4

static bool is_virtual_8086(struct hw_cpu *cpu)
{
    return vmcs_get(cpu, F_GUEST_RFLAGS) & RFLAGS_VM;
}

static const char *check_control_registers(struct hw_cpu *cpu)
{
    bool unrestricted = cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST;
    bool ia32e = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
    uint64_t cr0 = vmcs_get(cpu, F_GUEST_CR0), cr4 = vmcs_get(cpu, F_GUEST_CR4);
    if (entry_check_cr0(cpu, cr0, unrestricted) != NULL)
        return "guest CR0 has a bit that is not as VMX operation fixes it";
    if ((cr0 & CR0_PG) && !(cr0 & CR0_PE))
        return "guest CR0.PG without CR0.PE";
    if (entry_check_cr4(cpu, cr4) != NULL)
        return "guest CR4 has a bit that is not as VMX operation fixes it";
    if ((cr4 & CR4_CET) && !(cr0 & CR0_WP))
        return "guest CR4.CET without CR0.WP";
    if (ia32e && !((cr0 & CR0_PG) && (cr4 & CR4_PAE)))
        return "an IA-32e mode guest without CR0.PG and CR4.PAE";
    if (!ia32e && (cr4 & CR4_PCIDE))
        return "guest CR4.PCIDE outside IA-32e mode";
    if (!entry_fits_cr3(cpu, vmcs_get(cpu, F_GUEST_CR3)))
        return "guest CR3 is too wide";
    return NULL;
}

static const char *check_msrs(struct hw_cpu *cpu)
{
    if (cpu->c.entry & ENTRY_LOAD_DEBUG_CONTROLS) {
        const struct processor *processor = cpu->machine->processor;
        uint64_t bus_lock = processor->vmx.features & FEATURE_BUS_LOCK_DETECTION ? 4 : 0;
        uint64_t defined = (0xffc3ull | bus_lock) & ~(uint64_t)processor->debugctl_missing;
        if (vmcs_get(cpu, F_GUEST_IA32_DEBUGCTL) & ~defined)
            return "guest IA32_DEBUGCTL has reserved bits set";
        if (vmcs_get(cpu, F_GUEST_DR7) >> 32)
            return "bits 63:32 of guest DR7 are not 0";
    }
    if (!is_canonical(vmcs_get(cpu, F_GUEST_SYSENTER_ESP)) ||
        !is_canonical(vmcs_get(cpu, F_GUEST_SYSENTER_EIP)))
        return "guest IA32_SYSENTER_ESP or IA32_SYSENTER_EIP is not canonical";
    if ((cpu->c.entry & ENTRY_LOAD_PERF_GLOBAL_CTRL) &&
        (vmcs_get(cpu, F_GUEST_IA32_PERF_GLOBAL_CTRL) & ~cpu->machine->processor->vmx.perf_global_ctrl))
        return "guest IA32_PERF_GLOBAL_CTRL has reserved bits set";
    if ((cpu->c.entry & ENTRY_LOAD_PAT) && !pat_is_valid(vmcs_get(cpu, F_GUEST_IA32_PAT)))
        return "guest IA32_PAT holds a type that does not exist";
    if (cpu->c.entry & ENTRY_LOAD_EFER) {
        uint64_t efer = vmcs_get(cpu, F_GUEST_IA32_EFER);
        bool ia32e = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
        if (efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
            return "guest IA32_EFER has reserved bits set";
        if (!!(efer & EFER_LMA) != ia32e)
            return "LMA of guest IA32_EFER differs from \"IA-32e mode guest\"";
        if ((vmcs_get(cpu, F_GUEST_CR0) & CR0_PG) && !!(efer & EFER_LMA) != !!(efer & EFER_LME))
            return "LME of guest IA32_EFER differs from LMA while CR0.PG is 1";
    }
    return NULL;
}

struct segment_fields {
    enum vmcs_field selector, base, limit, access_rights;
};
static const struct segment_fields fields[SEGMENT_NAME_COUNT] = {
    {F_GUEST_ES_SELECTOR, F_GUEST_ES_BASE, F_GUEST_ES_LIMIT, F_GUEST_ES_ACCESS_RIGHTS},
    {F_GUEST_CS_SELECTOR, F_GUEST_CS_BASE, F_GUEST_CS_LIMIT, F_GUEST_CS_ACCESS_RIGHTS},
    {F_GUEST_SS_SELECTOR, F_GUEST_SS_BASE, F_GUEST_SS_LIMIT, F_GUEST_SS_ACCESS_RIGHTS},
    {F_GUEST_DS_SELECTOR, F_GUEST_DS_BASE, F_GUEST_DS_LIMIT, F_GUEST_DS_ACCESS_RIGHTS},
    {F_GUEST_FS_SELECTOR, F_GUEST_FS_BASE, F_GUEST_FS_LIMIT, F_GUEST_FS_ACCESS_RIGHTS},
    {F_GUEST_GS_SELECTOR, F_GUEST_GS_BASE, F_GUEST_GS_LIMIT, F_GUEST_GS_ACCESS_RIGHTS},
    {F_GUEST_LDTR_SELECTOR, F_GUEST_LDTR_BASE, F_GUEST_LDTR_LIMIT, F_GUEST_LDTR_ACCESS_RIGHTS},
    {F_GUEST_TR_SELECTOR, F_GUEST_TR_BASE, F_GUEST_TR_LIMIT, F_GUEST_TR_ACCESS_RIGHTS},
};

static struct segment read_segment(struct hw_cpu *cpu, enum segment_name name)
{
    struct segment s = {
        .selector = (uint16_t)vmcs_get(cpu, fields[name].selector),
        .access_rights = (uint32_t)vmcs_get(cpu, fields[name].access_rights),
        .base = vmcs_get_unchecked(cpu, fields[name].base),
        .limit = (uint32_t)vmcs_get_unchecked(cpu, fields[name].limit),
    };
    if (!(s.access_rights & SEGMENT_UNUSABLE)) { // ... and these were written
        s.base = vmcs_get(cpu, fields[name].base);
        s.limit = (uint32_t)vmcs_get(cpu, fields[name].limit);
    }
    return s;
}

static bool is_usable(struct segment s)
{
    return !(s.access_rights & SEGMENT_UNUSABLE);
}

static unsigned type_of(struct segment s)
{
    return s.access_rights & SEGMENT_TYPE_MASK;
}

static unsigned dpl_of(struct segment s)
{
    return s.access_rights >> SEGMENT_DPL_SHIFT & 3;
}

static bool limit_fits_granularity(struct segment s)
{
    bool g = s.access_rights & SEGMENT_G;
    return !((s.limit & 0xfff) != 0xfff && g) && !((s.limit & 0xfff00000) != 0 && !g);
}

static const char *check_selectors(struct hw_cpu *cpu, const struct segment *s)
{
    bool unrestricted = cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST;
    if (s[SEGMENT_TR].selector & 4)
        return "guest TR points into an LDT";
    if (is_usable(s[SEGMENT_LDTR]) && (s[SEGMENT_LDTR].selector & 4))
        return "guest LDTR points into an LDT";
    if (!is_virtual_8086(cpu) && !unrestricted &&
        (s[SEGMENT_SS].selector & 3) != (s[SEGMENT_CS].selector & 3))
        return "RPL of guest SS differs from RPL of guest CS";
    return NULL;
}

static const char *check_bases(struct hw_cpu *cpu, const struct segment *s)
{
    if (is_virtual_8086(cpu))
        for (unsigned i = SEGMENT_ES; i <= SEGMENT_GS; i++)
            if (s[i].base != (uint64_t)s[i].selector << 4)
                return "a segment base is not its selector times 16 in virtual-8086 mode";
    if (!is_canonical(s[SEGMENT_TR].base) || !is_canonical(vmcs_get(cpu, F_GUEST_FS_BASE)) ||
        !is_canonical(vmcs_get(cpu, F_GUEST_GS_BASE)))
        return "guest TR, FS or GS base is not canonical";
    if (is_usable(s[SEGMENT_LDTR]) && !is_canonical(s[SEGMENT_LDTR].base))
        return "guest LDTR base is not canonical";
    if (s[SEGMENT_CS].base >> 32)
        return "bits 63:32 of guest CS base are not 0";
    static const enum segment_name data[] = {SEGMENT_SS, SEGMENT_DS, SEGMENT_ES};
    for (unsigned i = 0; i < 3; i++)
        if (is_usable(s[data[i]]) && s[data[i]].base >> 32)
            return "bits 63:32 of guest SS, DS or ES base are not 0";
    return NULL;
}

static const char *check_virtual_8086_segments(const struct segment *s)
{
    for (unsigned i = SEGMENT_ES; i <= SEGMENT_GS; i++)
        if (s[i].limit != 0xffff || s[i].access_rights != 0xf3)
            return "a segment's limit or access rights are not virtual-8086 mode's";
    return NULL;
}

static const char *check_code_segment(struct hw_cpu *cpu, const struct segment *s)
{
    struct segment cs = s[SEGMENT_CS], ss = s[SEGMENT_SS];
    bool unrestricted = cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST;
    unsigned type = type_of(cs), dpl = dpl_of(cs);
    if (!(type == 9 || type == 11 || type == 13 || type == 15 || (type == 3 && unrestricted)))
        return "guest CS is not an accessed code segment";
    if (!(cs.access_rights & SEGMENT_S) || !(cs.access_rights & SEGMENT_PRESENT))
        return "guest CS is a system segment, or not present";
    if (type == 3 && dpl != 0)
        return "guest CS is a data segment with a DPL other than 0";
    if ((type == 9 || type == 11) && dpl != dpl_of(ss))
        return "DPL of non-conforming guest CS differs from DPL of SS";
    if ((type == 13 || type == 15) && dpl > dpl_of(ss))
        return "DPL of conforming guest CS is greater than DPL of SS";
    if ((cs.access_rights & 0xf00) || cs.access_rights >> 17) // nothing is said of an unusable CS
        return "reserved bits of guest CS access rights are not 0";
    if ((cpu->c.entry & ENTRY_IA32E_MODE_GUEST) && (cs.access_rights & SEGMENT_L) &&
        (cs.access_rights & SEGMENT_DB))
        return "guest CS.D and CS.L are both 1 in IA-32e mode";
    if (!limit_fits_granularity(cs))
        return "guest CS limit does not fit its granularity";
    return NULL;
}

static const char *check_stack_segment(struct hw_cpu *cpu, const struct segment *s)
{
    struct segment ss = s[SEGMENT_SS];
    bool unrestricted = cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST;
    if (is_usable(ss) && type_of(ss) != 3 && type_of(ss) != 7)
        return "guest SS is not an accessed writable data segment";
    if (!unrestricted && dpl_of(ss) != (ss.selector & 3))
        return "DPL of guest SS differs from its RPL";
    if ((type_of(s[SEGMENT_CS]) == 3 || !(vmcs_get(cpu, F_GUEST_CR0) & CR0_PE)) && dpl_of(ss) != 0)
        return "DPL of guest SS is not 0 in real-address mode";
    if (is_usable(ss) && (!(ss.access_rights & SEGMENT_S) || !(ss.access_rights & SEGMENT_PRESENT)))
        return "guest SS is a system segment, or not present";
    return NULL;
}

static const char *check_data_segments(struct hw_cpu *cpu, const struct segment *s)
{
    static const enum segment_name data[] = {SEGMENT_SS, SEGMENT_DS, SEGMENT_ES, SEGMENT_FS, SEGMENT_GS};
    bool unrestricted = cpu->c.secondary & SECONDARY_UNRESTRICTED_GUEST;
    for (unsigned i = 0; i < 5; i++) {
        struct segment d = s[data[i]];
        if (!is_usable(d))
            continue;
        if (!(type_of(d) & 1) || ((type_of(d) & 8) && !(type_of(d) & 2)))
            return "a guest data segment is not accessed, or an unreadable code segment";
        if (!(d.access_rights & SEGMENT_S) || !(d.access_rights & SEGMENT_PRESENT))
            return "a guest data segment is a system segment, or not present";
        if (data[i] != SEGMENT_SS && !unrestricted && type_of(d) <= 11 && dpl_of(d) < (d.selector & 3u))
            return "DPL of a guest data segment is less than its RPL";
        if ((d.access_rights & 0xf00) || d.access_rights >> 17)
            return "reserved bits of a guest data segment's access rights are not 0";
        if (!limit_fits_granularity(d))
            return "a guest data segment's limit does not fit its granularity";
    }
    return NULL;
}

static const char *check_system_segments(struct hw_cpu *cpu, const struct segment *s)
{
    struct segment tr = s[SEGMENT_TR], ldtr = s[SEGMENT_LDTR];
    bool ia32e = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
    if (!(type_of(tr) == 11 || (type_of(tr) == 3 && !ia32e)))
        return "guest TR is not a busy TSS";
    if ((tr.access_rights & SEGMENT_S) || !(tr.access_rights & SEGMENT_PRESENT) || !is_usable(tr) ||
        (tr.access_rights & 0xf00) || tr.access_rights >> 17 || !limit_fits_granularity(tr))
        return "guest TR's access rights or limit are not a TSS's";
    if (!is_usable(ldtr))
        return NULL;
    if (type_of(ldtr) != 2 || (ldtr.access_rights & SEGMENT_S) || !(ldtr.access_rights & SEGMENT_PRESENT) ||
        (ldtr.access_rights & 0xf00) || ldtr.access_rights >> 17 || !limit_fits_granularity(ldtr))
        return "guest LDTR's access rights or limit are not an LDT's";
    return NULL;
}

static const char *check_segments(struct hw_cpu *cpu)
{
    struct segment s[SEGMENT_NAME_COUNT];
    for (unsigned i = 0; i < SEGMENT_NAME_COUNT; i++)
        s[i] = read_segment(cpu, (enum segment_name)i);
    const char *rule = check_selectors(cpu, s);
    if (rule == NULL)
        rule = check_bases(cpu, s);
    if (rule == NULL && is_virtual_8086(cpu))
        rule = check_virtual_8086_segments(s);
    if (rule == NULL && !is_virtual_8086(cpu)) {
        rule = check_code_segment(cpu, s);
        if (rule == NULL)
            rule = check_stack_segment(cpu, s);
        if (rule == NULL)
            rule = check_data_segments(cpu, s);
    }
    if (rule == NULL)
        rule = check_system_segments(cpu, s);
    if (rule != NULL)
        return rule;
    if (!is_canonical(vmcs_get(cpu, F_GUEST_GDTR_BASE)) || !is_canonical(vmcs_get(cpu, F_GUEST_IDTR_BASE)))
        return "guest GDTR or IDTR base is not canonical";
    if (vmcs_get(cpu, F_GUEST_GDTR_LIMIT) >> 16 || vmcs_get(cpu, F_GUEST_IDTR_LIMIT) >> 16)
        return "bits 31:16 of guest GDTR or IDTR limit are not 0";
    return NULL;
}

static const char *check_instruction_pointer(struct hw_cpu *cpu)
{
    uint64_t rip = vmcs_get(cpu, F_GUEST_RIP), flags = vmcs_get(cpu, F_GUEST_RFLAGS);
    uint32_t info = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO);
    bool ia32e = cpu->c.entry & ENTRY_IA32E_MODE_GUEST;
    bool is_64bit = ia32e && (vmcs_get(cpu, F_GUEST_CS_ACCESS_RIGHTS) & SEGMENT_L);
    if (!is_64bit && rip >> 32)
        return "bits 63:32 of guest RIP are not 0 outside 64-bit mode";
    if (is_64bit && rip >> 48 != 0 && rip >> 48 != 0xffff) // bit 47 may differ: then the first fetch faults
        return "bits 63:48 of guest RIP are not identical";
    if ((flags & ~0x3f7fd7ull) || !(flags & RFLAGS_FIXED))
        return "reserved bits of guest RFLAGS are not as they must be";
    if ((flags & RFLAGS_VM) && (ia32e || !(vmcs_get(cpu, F_GUEST_CR0) & CR0_PE)))
        return "guest RFLAGS.VM in IA-32e mode or in real-address mode";
    if ((info & INTERRUPTION_VALID) && !(info & INTERRUPTION_TYPE_MASK) && !(flags & RFLAGS_IF))
        return "an external interrupt is injected while guest RFLAGS.IF is 0";
    return NULL;
}

static bool event_fits_activity(uint32_t info, uint64_t activity)
{
    unsigned type = (info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT, vector = info & 0xff;
    switch (activity) {
    case ACTIVITY_ACTIVE:
        return true;
    case ACTIVITY_HLT:
        return type == EVENT_EXTERNAL_INTERRUPT || type == EVENT_NMI ||
               (type == EVENT_HARDWARE_EXCEPTION && (vector == VECTOR_DB || vector == 18)) ||
               (type == EVENT_OTHER && vector == 0);
    case ACTIVITY_SHUTDOWN:
        return type == EVENT_NMI || (type == EVENT_HARDWARE_EXCEPTION && vector == 18);
    default:
        return false;
    }
}

static const char *check_activity(struct hw_cpu *cpu)
{
    const struct processor *p = cpu->machine->processor;
    uint64_t activity = vmcs_get(cpu, F_GUEST_ACTIVITY_STATE);
    uint64_t blocking = vmcs_get(cpu, F_GUEST_INTERRUPTIBILITY);
    uint32_t info = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO);
    if (activity > ACTIVITY_WAIT_FOR_SIPI ||
        (activity != ACTIVITY_ACTIVE && !capability_misc(p, MISC_ACTIVITY_HLT << (activity - 1))))
        return "the guest activity state is not supported";
    if (activity == ACTIVITY_HLT && dpl_of(read_segment(cpu, SEGMENT_SS)) != 0)
        return "activity state HLT with a DPL of SS other than 0";
    if ((blocking & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) && activity != ACTIVITY_ACTIVE)
        return "blocking by STI or by MOV SS, and the activity state is not active";
    if ((info & INTERRUPTION_VALID) && !event_fits_activity(info, activity))
        return "the injected event does not fit the activity state";
    return NULL;
}

static const char *check_interruptibility(struct hw_cpu *cpu)
{
    uint64_t blocking = vmcs_get(cpu, F_GUEST_INTERRUPTIBILITY);
    uint64_t flags = vmcs_get(cpu, F_GUEST_RFLAGS);
    uint32_t info = (uint32_t)vmcs_get(cpu, F_VM_ENTRY_INTERRUPTION_INFO);
    unsigned type = (info & INTERRUPTION_TYPE_MASK) >> INTERRUPTION_TYPE_SHIFT;
    bool sti = blocking & INTERRUPTIBILITY_STI, mov_ss = blocking & INTERRUPTIBILITY_MOV_SS;
    if (blocking & ~0x1full)
        return "reserved bits of the interruptibility state are not 0";
    if ((blocking & 0x10) && !(cpu->machine->processor->vmx.features & FEATURE_SGX))
        return "the interruptibility state says enclave interruption, without SGX";
    if ((blocking & 0x10) && mov_ss)
        return "enclave interruption, and blocking by MOV SS";
    if (sti && mov_ss)
        return "blocking by STI and by MOV SS at once";
    if (sti && !(flags & RFLAGS_IF))
        return "blocking by STI while RFLAGS.IF is 0";
    if (blocking & INTERRUPTIBILITY_SMI)
        return "blocking by SMI outside SMM";
    if (!(info & INTERRUPTION_VALID))
        return NULL;
    if (type == EVENT_EXTERNAL_INTERRUPT && (sti || mov_ss))
        return "an external interrupt is injected while blocking by STI or MOV SS";
    if (type == EVENT_NMI && mov_ss)
        return "an NMI is injected while blocking by MOV SS";
    if (type == EVENT_NMI && (cpu->c.pin & PIN_VIRTUAL_NMIS) && (blocking & INTERRUPTIBILITY_NMI))
        return "an NMI is injected while virtual-NMI blocking";
    return NULL;
}

static const char *check_pending_debug(struct hw_cpu *cpu)
{
    uint64_t pending = vmcs_get(cpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS);
    uint64_t blocking = vmcs_get(cpu, F_GUEST_INTERRUPTIBILITY);
    uint64_t features = cpu->machine->processor->vmx.features;
    uint64_t may = 0xfull | 1ull << 12 | 1ull << 14; // B3:0, enabled breakpoint, BS
    if (features & FEATURE_BUS_LOCK_DETECTION)
        may |= 1ull << 11;
    if (features & FEATURE_RTM)
        may |= 1ull << 16;
    if (pending & ~may)
        return "reserved bits of the pending debug exceptions are not 0";
    if (pending >> 16 & 1) {
        if (!(pending >> 12 & 1) || (pending & 0xefff))
            return "pending debug exceptions: RTM with others, or without an enabled breakpoint";
        if (blocking & INTERRUPTIBILITY_MOV_SS)
            return "pending debug exceptions: RTM while blocking by MOV SS";
    }
    if ((blocking & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS)) ||
        vmcs_get(cpu, F_GUEST_ACTIVITY_STATE) == ACTIVITY_HLT) {
        bool step = (vmcs_get(cpu, F_GUEST_RFLAGS) & RFLAGS_TF) &&
                    !(vmcs_get_unchecked(cpu, F_GUEST_IA32_DEBUGCTL) & 2);
        if (step != !!(pending & 1ull << 14))
            return "the pending single-step exception does not fit RFLAGS.TF";
    }
    return NULL;
}

static const char *check_link_pointer(struct hw_cpu *cpu)
{
    uint64_t link = vmcs_get(cpu, F_VMCS_LINK_POINTER);
    if (link == NO_ADDRESS)
        return NULL;
    if ((link & (PAGE_SIZE - 1)) || !fits_physical_width(cpu, link))
        return "the VMCS link pointer is not aligned or too wide";
    uint32_t revision = vmcs_region_revision(cpu->machine, link);
    uint32_t own = (uint32_t)capability_msr(cpu->machine->processor, MSR_IA32_VMX_BASIC) & 0x7fffffff;
    if ((revision & 0x7fffffff) != own || (revision >> 31) != !!(cpu->c.secondary & SECONDARY_VMCS_SHADOWING))
        return "the VMCS link pointer's revision identifier, or its shadow-VMCS indicator, does not fit";
    if (link == cpu->current_pointer)
        return "the VMCS link pointer is the current VMCS";
    return NULL;
}

static const char *check_pdptes(struct hw_cpu *cpu)
{
    bool pae = (vmcs_get(cpu, F_GUEST_CR0) & CR0_PG) && (vmcs_get(cpu, F_GUEST_CR4) & CR4_PAE) &&
               !(cpu->c.entry & ENTRY_IA32E_MODE_GUEST);
    if (!pae)
        return NULL;
    uint64_t reserved = ~((1ull << cpu->machine->processor->physical_address_width) - 1) | 0x1e6;
    uint64_t cr3 = vmcs_get(cpu, F_GUEST_CR3) & 0xffffffe0;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t pdpte = cpu->c.eptp ? vmcs_get(cpu, (enum vmcs_field)(F_GUEST_PDPTE0 + i))
                                     : memory_read(cpu->machine, cr3 + 8 * i, 8);
        if ((pdpte & 1) && (pdpte & reserved))
            return "a guest PDPTE has reserved bits set";
    }
    return NULL;
}

const char *entry_check_guest(struct hw_cpu *cpu, uint64_t *qualification)
{
    static const char *(*const checks[])(struct hw_cpu *) = {
        check_control_registers,   check_msrs,     check_segments,
        check_instruction_pointer, check_activity, check_interruptibility,
        check_pending_debug,
    };
    *qualification = 0;
    for (unsigned i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        const char *rule = checks[i](cpu);
        if (rule != NULL)
            return rule;
    }
    const char *rule = check_link_pointer(cpu);
    if (rule != NULL) {
        *qualification = QUALIFICATION_LINK_POINTER;
        return rule;
    }
    rule = check_pdptes(cpu);
    if (rule != NULL)
        *qualification = QUALIFICATION_PDPTE;
    return rule;
}
