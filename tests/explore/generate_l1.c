// SPDX-License-Identifier: MIT
// What L1 does next: a hypervisor that works, most of the time.
#include "generate.h"

#define L1_CODE_END (L1_CODE + 0x70000)

static struct op at_slot(enum op_kind kind, int64_t slot)
{
    return OP(.kind = kind, .reg2 = GPR_RDX, AT(slot));
}

static bool has_ept(void)
{
    return allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_EPT;
}

static bool has_vpid(void)
{
    return allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_VPID;
}

// --- the way into L2

static void plan_invalidate_everything(struct actor *a)
{
    if (has_ept())
        plan_l1(a, INVEPT(2, ZERO_SLOT));
    if (has_vpid())
        plan_l1(a, INVVPID(2, ZERO_SLOT));
    a->stale = false;
}

static void plan_enter(struct actor *a)
{
    if (a->stale)
        plan_invalidate_everything(a);
    plan_repairs(a);
    bool launched = a->cpu->current->data.launched;
    if (one_in(60))
        launched = !launched;
    plan_l1(a, launched ? VMRESUME : VMLAUNCH);
    a->l2_budget = 3 + random_below(one_in(6) ? 150 : 40);
}

static bool plan_prepare(struct actor *a)
{
    unsigned r = random_region(a);
    if (is_active_elsewhere(a, r))
        return false;
    bool without_ept = !has_ept() || one_in(8);
    enum guest_mode mode = random_mode(without_ept);
    struct known_vmcs *region = &generating.region[r];
    *region = (struct known_vmcs){
        .prepared = true, .without_ept = without_ept, .mode = (uint8_t)mode, .broken = F_COUNT};
    plan_forget_translations(a);
    plan(a, (struct step){.kind = STEP_PREPARE, .level = 1, .op = {.a = r, .b = mode, .flag = without_ept}});
    a->stale |= world->config.vcpu_count > 1; // whoever had it last may have changed its tables
    return true;
}

static void plan_load(struct actor *a)
{
    unsigned r = random_region(a);
    if (!generating.region[r].prepared || is_active_elsewhere(a, r)) {
        plan_prepare(a);
        return;
    }
    plan_l1(a, at_slot(OP_VMPTRLD, VMCS_SLOT(r)));
    a->stale |= world->config.vcpu_count > 1;
}

// The guest state anew: what L2 left does not work any longer, or another mode is wanted.
static void plan_new_guest(struct actor *a, struct known_vmcs *region, unsigned r)
{
    bool ept = has_secondary(a, SECONDARY_ENABLE_EPT);
    enum guest_mode mode = random_mode(!ept);
    if ((mode == MODE_REAL || mode == MODE_NOT_PAGED) && !has_secondary(a, SECONDARY_UNRESTRICTED_GUEST))
        mode = MODE_64;
    region->mode = (uint8_t)mode;
    region->without_ept = !ept;
    region->unsure = false;
    plan_forget_translations(a);
    plan(a, (struct step){.kind = STEP_GUEST, .level = 1, .op = {.a = r, .b = mode, .flag = !ept}});
}

// --- looking

static void plan_read(struct actor *a)
{
    static const enum vmcs_field usual[] = {
        F_EXIT_REASON,
        F_EXIT_QUALIFICATION,
        F_VM_EXIT_INTERRUPTION_INFO,
        F_VM_EXIT_INTERRUPTION_ERROR_CODE,
        F_IDT_VECTORING_INFO,
        F_IDT_VECTORING_ERROR_CODE,
        F_VM_EXIT_INSTRUCTION_LENGTH,
        F_VM_EXIT_INSTRUCTION_INFO,
        F_GUEST_LINEAR_ADDRESS,
        F_GUEST_PHYSICAL_ADDRESS,
        F_GUEST_RIP,
        F_GUEST_RSP,
        F_GUEST_RFLAGS,
        F_GUEST_CR0,
        F_GUEST_CR3,
        F_GUEST_CR4,
        F_GUEST_INTERRUPTIBILITY,
        F_GUEST_ACTIVITY_STATE,
        F_GUEST_PENDING_DEBUG_EXCEPTIONS,
        F_VM_INSTRUCTION_ERROR,
        F_VM_ENTRY_CONTROLS,
        F_GUEST_IA32_EFER,
        F_VM_ENTRY_INTERRUPTION_INFO,
    };
    static const uint8_t registers[] = {GPR_RAX, GPR_RBX, GPR_R8, GPR_R14};
    unsigned count = 1 + random_below(3);
    for (unsigned i = 0; i < count; i++) {
        enum vmcs_field field = one_in(3) ? (enum vmcs_field)random_below(F_COUNT) : PICK(usual);
        uint32_t encoding = model_field_encoding(field);
        if (one_in(30) && vmcs_encoding_width(encoding) == VMCS_WIDTH_64)
            encoding |= VMCS_HIGH;
        if (one_in(60))
            encoding = (uint32_t)random_below(0x8000);
        struct op op = VMREAD(PICK(registers), encoding);
        if (one_in(10))
            op = VMREAD_TO((int64_t)SPARE + 8 * random_below(64), encoding);
        plan_l1(a, op);
    }
}

// --- invalidation, regions, VMX operation

static void plan_invalidation(struct actor *a)
{
    static const int64_t ept_slots[] = {EPTP_SLOT(0), EPTP_SLOT(1), EPTP_LARGE_SLOT(0), ZERO_SLOT, ONES_SLOT};
    static const int64_t vpid_slots[] = {VPID_SLOT(0), VPID_SLOT(1), VPID_SLOT(2), VPID_SLOT(4), ONES_SLOT};
    static const int64_t not_mapped = (int64_t)L1_NOT_MAPPED;
    int64_t slot = one_in(2) ? PICK(ept_slots) : PICK(vpid_slots);
    if (one_in(40))
        slot = not_mapped;
    if (one_in(2))
        plan_l1(a, INVEPT(one_in(8) ? random_below(5) : 1 + random_below(2), slot));
    else
        plan_l1(a, INVVPID(one_in(8) ? random_below(6) : random_below(4), slot));
}

static void plan_region_instruction(struct actor *a)
{
    unsigned r = random_region(a);
    if (is_active_elsewhere(a, r))
        return;
    switch (random_below(6)) {
    case 0:
        plan_l1(a, VMPTRST((int64_t)SPARE + 8 * random_below(64)));
        break;
    case 1:
        if (generating.region[r].prepared || (int)r == current_region(a))
            plan_l1(a, at_slot(OP_VMCLEAR, VMCS_SLOT(r)));
        break;
    default:
        plan_load(a);
        break;
    }
}

static void plan_bad_region_instruction(struct actor *a)
{
    static const enum op_kind kinds[] = {OP_VMCLEAR, OP_VMPTRLD, OP_VMXON};
    static const int64_t slots[] = {UNALIGNED_SLOT, TOO_WIDE_SLOT, L1_NOT_MAPPED, (int64_t)0x800000000000ll};
    int64_t slot = one_in(3) ? VMXON_SLOT(a->vcpu) : PICK(slots);
    plan_l1(a, at_slot(PICK(kinds), slot));
}

static void plan_leave_vmx(struct actor *a)
{
    // What was not cleared is lost on some processors.
    for (unsigned r = 0; r < REGION_COUNT; r++)
        if (vmcs_cache_find(a->cpu, VMCS_AT(r)) != NULL)
            plan_l1(a, at_slot(OP_VMCLEAR, VMCS_SLOT(r)));
    plan_l1(a, VMXOFF);
    if (one_in(2))
        plan_l1(a, VMLAUNCH);
    if (one_in(3))
        plan_l1(a, CPUID(2));
    if (one_in(8))
        plan_l1(a, MOV_TO_CR(4, CR4_PAE));
    plan(a, (struct step){.kind = STEP_ENTER_VMX, .level = 1});
}

// --- what is not VMX

static void plan_msr(struct actor *a)
{
    static const uint32_t msrs[] = {MSR_IA32_PAT,
                                    MSR_IA32_SYSENTER_CS,
                                    MSR_IA32_SYSENTER_EIP,
                                    0xc0000081,
                                    0xc0000082,
                                    0xc0000102,
                                    MSR_FS_BASE,
                                    0x12345,
                                    MSR_IA32_VMX_BASIC,
                                    MSR_IA32_VMX_MISC,
                                    MSR_IA32_DEBUGCTL,
                                    0xc0000103,
                                    MSR_IA32_FEATURE_CONTROL};
    uint32_t msr = PICK(msrs);
    if (one_in(4))
        msr = MSR_IA32_VMX_BASIC + random_below(18);
    if (one_in(2)) {
        plan_l1(a, RDMSR(msr));
        return;
    }
    uint64_t value = msr == MSR_IA32_PAT        ? 0x0007040600070406 ^ random_below(2)
                     : msr == MSR_IA32_DEBUGCTL ? random_below(4)
                                                : random_below(0x10000) * 0x1000ull;
    plan_l1(a, WRMSR(msr, value));
}

static void plan_control_register(struct actor *a)
{
    static const uint64_t cr0_bits[] = {CR0_TS, CR0_AM, CR0_MP, CR0_EM, CR0_WP, CR0_NE};
    static const uint64_t cr4_bits[] = {CR4_PGE, 1u << 3, 1u << 2, 1u << 9, CR4_OSXSAVE, CR4_VMXE};
    switch (random_below(6)) {
    case 0:
        plan_l1(a, MOV_TO_CR(0, visible_cr0(a->cpu) ^ PICK(cr0_bits)));
        break;
    case 1:
        plan_l1(a, MOV_TO_CR(4, visible_cr4(a->cpu) ^ PICK(cr4_bits)));
        break;
    case 2:
        plan_l1(a, MOV_TO_CR(3, L1_PAGE_TABLES));
        break;
    case 3:
        plan_l1(a, one_in(2) ? MOV_TO_CR(2, random_word()) : MOV_TO_CR(8, random_below(17)));
        break;
    case 4:
        plan_l1(a, one_in(2) ? CLTS : LMSW(random_below(16)));
        break;
    default: {
        unsigned cr = (unsigned[]){0, 2, 3, 4, 8}[random_below(5)];
        plan_l1(a, MOV_FROM_CR(GPR_RBX, cr));
        break;
    }
    }
}

static void plan_arrival(struct actor *a)
{
    bool virtual_nmis = capability_allowed1(world->config.processor, WORD_PIN) & PIN_VIRTUAL_NMIS;
    switch (random_below(6)) {
    case 0:
        if (virtual_nmis)
            plan_l1(a, NMI_ARRIVES);
        break;
    case 1:
        plan_l1(a, SIPI_ARRIVES(0x10));
        break;
    case 2:
        plan_l1(a, STI);
        break;
    case 3:
        plan_l1(a, MOV_SS);
        break;
    default:
        plan_l1(a, INTERRUPT_ARRIVES(0x40 + random_below(0x10)));
        break;
    }
}

static void plan_ordinary(struct actor *a)
{
    switch (random_below(12)) {
    case 0:
        plan_msr(a);
        break;
    case 1:
        plan_control_register(a);
        break;
    case 2:
        plan_arrival(a);
        break;
    case 3:
        plan_l1(a, CPUID(random_below(4)));
        break;
    case 4:
        plan_l1(a, one_in(2) ? UD2 : FAULT_CODE(VECTOR_GP, 8));
        break;
    case 5:
        plan_l1(a, READ(GPR_RCX, one_in(20) ? L1_NOT_MAPPED : SPARE + 8 * random_below(64)));
        break;
    case 6:
        plan_l1(a, WRITE(SPARE + 8 * random_below(64), random_word()));
        break;
    case 7:
        plan_l1(a, one_in(2) ? OUT(0x60 + random_below(4), 7) : IN(0x60 + random_below(4)));
        break;
    case 8:
        plan_l1(a, one_in(3) ? VMCALL : PAUSE);
        break;
    case 9:
        plan_l1(a, CLI);
        break;
    default:
        plan_l1(a, SET(GPR_RDI, random_word()));
        break;
    }
}

// The wrong privilege or mode for a VMX instruction; the exception's handler runs at CPL 0, in 64-bit mode.
static void plan_accident(struct actor *a)
{
    static const enum op_kind kinds[] = {OP_VMXOFF, OP_VMLAUNCH, OP_VMRESUME, OP_VMCALL};
    plan_l1(a, one_in(2) ? SET_CPL(3) : TO_COMPATIBILITY_MODE);
    struct op op = {.kind = PICK(kinds)};
    plan_l1(a, one_in(3) ? at_slot(OP_VMPTRLD, VMCS_SLOT(0)) : op);
    plan_l1(a, UD2); // in case that the mode was right
}

// --- the choice

// Exceptions and entries leave L1 wherever they lead: it goes back to its code, and to the top of its stack.
static bool plan_tidying(struct actor *a)
{
    const struct registers *r = &a->cpu->r;
    bool pad = r->rip >= L1_PADS && r->rip < L1_PADS + 0x8000;
    bool code = r->rip >= L1_CODE && r->rip < L1_CODE_END;
    uint64_t stack = L1_STACK + 0x1000 * (uint64_t)(a->vcpu + 1);
    if (cpu_cpl(a->cpu) != 0 || !cpu_in_64bit_code(a->cpu)) {
        plan_l1(a, UD2);
        if (generating.l1_accidents++ > 400)
            generating.over = true;
        return true;
    }
    if (!pad && !code) {
        plan_l1(a, JUMP(L1_CODE + 0x40000 * a->vcpu));
        return true;
    }
    if (stack - r->gpr[GPR_RSP] > 0x400) {
        plan_l1(a, SET(GPR_RSP, stack));
        return true;
    }
    if (visible_cr0(a->cpu) & CR0_EM || !(visible_cr0(a->cpu) & CR0_WP)) {
        plan_l1(a, MOV_TO_CR(0, CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_MP));
        return true;
    }
    return false;
}

static void plan_with_vmcs(struct actor *a, unsigned r)
{
    struct known_vmcs *region = &generating.region[r];
    if (region->broken != F_COUNT) { // entered with it, or not: it is mended
        plan_write(a, region->broken, region->good);
        plan_forget_after(a, region->broken);
        region->unsure |=
            vmcs_encoding_type(model_field_encoding(region->broken)) == VMCS_TYPE_GUEST && one_in(4);
        region->broken = F_COUNT;
        return;
    }
    if (region->unsure || one_in(300)) {
        plan_new_guest(a, region, r);
        return;
    }
    unsigned choice = random_below(100);
    if (choice < 42)
        plan_enter(a);
    else if (choice < 58)
        plan_read(a);
    else if (choice < 72)
        plan_vmcs_change(a);
    else if (choice < 77) {
        plan_bad_change(a);
        plan_enter(a);
    } else if (choice < 90)
        plan_ordinary(a);
    else if (choice < 94)
        plan_invalidation(a);
    else if (choice < 97)
        plan_region_instruction(a);
    else if (choice < 98)
        plan_bad_region_instruction(a);
    else if (choice < 99)
        plan_accident(a);
    else if (one_in(8))
        plan_leave_vmx(a);
}

static void plan_without_vmcs(struct actor *a)
{
    switch (random_below(8)) {
    case 0:
        plan_ordinary(a);
        break;
    case 1:
        plan_bad_region_instruction(a);
        break;
    case 2:
        plan_l1(a, one_in(2) ? VMLAUNCH : VMREAD(GPR_RAX, VMCS_EXIT_REASON));
        break;
    case 3:
        plan_l1(a, VMWRITE(VMCS_GUEST_RIP, 0));
        break;
    case 4:
        plan_load(a);
        break;
    default:
        plan_prepare(a);
        break;
    }
}

// The exit behind which L2's state is not worth keeping.
static void judge_exit(struct actor *a, struct known_vmcs *region)
{
    uint64_t reason = current_field(a, F_EXIT_REASON) & EXIT_REASON_BASIC_MASK;
    if (a->cpu->r.rip == L1_EXIT_PAD && (reason == 2 || (reason == 33 && region->broken == F_COUNT)))
        region->unsure = true;
    // An exit during the delivery of an event is rare: it is looked at whenever there is one.
    if (a->cpu->r.rip == L1_EXIT_PAD && (current_field(a, F_IDT_VECTORING_INFO) & INTERRUPTION_VALID)) {
        plan_l1(a, VMREAD(GPR_R9, VMCS_IDT_VECTORING_INFO));
        plan_l1(a, VMREAD(GPR_R10, VMCS_IDT_VECTORING_ERROR_CODE));
    }
}

void plan_l1_steps(struct actor *a)
{
    if (plan_tidying(a))
        return;
    if (a->cpu->vmx == VMX_OUTSIDE) {
        if (one_in(3))
            plan_ordinary(a);
        else
            plan(a, (struct step){.kind = STEP_ENTER_VMX, .level = 1});
        return;
    }
    int r = current_region(a);
    if (r < 0 || !generating.region[r].prepared) {
        plan_without_vmcs(a);
        return;
    }
    judge_exit(a, &generating.region[r]);
    plan_with_vmcs(a, (unsigned)r);
}
