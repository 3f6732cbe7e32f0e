// SPDX-License-Identifier: MIT
// What L1 writes into the current VMCS, and into what it points to. The controls are those that L1's
// capability MSRs offer: what is offered newly is turned on and off from then on.
#include "generate.h"
#include <string.h>

// --- controls

struct control_words {
    uint32_t word[5];
};

static const enum vmcs_field word_fields[5] = {
    [WORD_PIN] = F_PIN_BASED_CONTROLS,       [WORD_PRIMARY] = F_PRIMARY_CONTROLS,
    [WORD_SECONDARY] = F_SECONDARY_CONTROLS, [WORD_EXIT] = F_VM_EXIT_CONTROLS,
    [WORD_ENTRY] = F_VM_ENTRY_CONTROLS,
};

// Drops what may not be set without something else.
static void make_consistent(struct control_words *c)
{
    uint32_t *pin = &c->word[WORD_PIN], *primary = &c->word[WORD_PRIMARY];
    uint32_t *secondary = &c->word[WORD_SECONDARY], *exit = &c->word[WORD_EXIT];
    // NMI exiting alone would let L2 block the processor's own NMIs, which the engine does not permit.
    if (!(*pin & PIN_NMI_EXITING))
        *pin &= ~PIN_VIRTUAL_NMIS;
    else
        *pin |= PIN_VIRTUAL_NMIS & allowed1(WORD_PIN);
    if (!(*pin & PIN_VIRTUAL_NMIS))
        *primary &= ~PRIMARY_NMI_WINDOW_EXITING;
    if (!(*pin & PIN_PREEMPTION_TIMER))
        *exit &= ~EXIT_SAVE_PREEMPTION_TIMER;
    if (!(*primary & PRIMARY_USE_TPR_SHADOW))
        *secondary &= ~(SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_APIC_REGISTER_VIRTUALIZATION |
                        SECONDARY_VIRTUAL_INTERRUPT_DELIVERY);
    if (*secondary & SECONDARY_VIRTUALIZE_X2APIC_MODE)
        *secondary &= ~SECONDARY_VIRTUALIZE_APIC_ACCESSES;
    if (!(*pin & PIN_EXTERNAL_INTERRUPT_EXITING))
        *secondary &= ~SECONDARY_VIRTUAL_INTERRUPT_DELIVERY;
    if (!(*secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) || !(*exit & EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT))
        *pin &= ~PIN_POSTED_INTERRUPTS;
    if (!(*secondary & SECONDARY_ENABLE_EPT))
        *secondary &=
            ~(SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_PML | SECONDARY_MODE_BASED_EXECUTE_CONTROL);
}

// Those that decide how L2's memory and mode work change together with its state (plan_new_guest).
static uint32_t not_alone(enum control_word word)
{
    switch (word) {
    case WORD_PRIMARY:
        return PRIMARY_ACTIVATE_SECONDARY;
    case WORD_SECONDARY:
        return SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST | SECONDARY_MODE_BASED_EXECUTE_CONTROL;
    case WORD_EXIT:
        return EXIT_HOST_ADDRESS_SPACE_SIZE;
    case WORD_ENTRY:
        return ENTRY_IA32E_MODE_GUEST;
    default:
        return 0;
    }
}

static uint32_t optional(enum control_word word)
{
    uint32_t bits = allowed1(word) & ~allowed0(word) & ~not_alone(word);
    if (word == WORD_ENTRY)
        bits &= ~(ENTRY_TO_SMM | ENTRY_DEACTIVATE_DUAL);
    return bits;
}

static uint32_t random_bit(uint32_t set)
{
    uint32_t count = (uint32_t)__builtin_popcount(set), chosen = count ? random_below(count) : 0;
    while (set != 0 && chosen-- > 0)
        set &= set - 1;
    return set & -set;
}

static void plan_controls(struct actor *a, const struct control_words *c)
{
    for (unsigned i = 0; i < 5; i++)
        if (c->word[i] != (uint32_t)current_field(a, word_fields[i]))
            plan_write(a, word_fields[i], c->word[i]);
}

static struct control_words read_controls(const struct actor *a)
{
    struct control_words c = {{0}};
    for (unsigned i = 0; i < 5; i++)
        if (field_is_of_l1(word_fields[i]))
            c.word[i] = (uint32_t)current_field(a, word_fields[i]);
    return c;
}

static void plan_toggle(struct actor *a)
{
    struct control_words c = read_controls(a);
    unsigned count = 1 + random_below(3);
    for (unsigned i = 0; i < count; i++) {
        enum control_word word = (enum control_word)(one_in(3) ? WORD_SECONDARY : random_below(5));
        c.word[word] ^= random_bit(optional(word));
    }
    uint32_t *secondary = &c.word[WORD_SECONDARY];
    if ((*secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) && one_in(2)) // what it needs comes with it
        c.word[WORD_PIN] |= PIN_EXTERNAL_INTERRUPT_EXITING & allowed1(WORD_PIN);
    if ((*secondary & (SECONDARY_VIRTUALIZE_X2APIC_MODE | SECONDARY_APIC_REGISTER_VIRTUALIZATION)) &&
        one_in(2))
        c.word[WORD_PRIMARY] |= PRIMARY_USE_TPR_SHADOW & allowed1(WORD_PRIMARY);
    make_consistent(&c);
    if (one_in(4)) // what stops L2 at once leaves nothing else to see
        c.word[WORD_PIN] &= ~PIN_PREEMPTION_TIMER | allowed0(WORD_PIN);
    make_consistent(&c);
    plan_controls(a, &c);
}

// EPT, unrestricted guest, secondary controls at all: with the guest state that fits.
static void plan_toggle_memory(struct actor *a)
{
    int r = current_region(a);
    struct control_words c = read_controls(a);
    uint32_t bits[3] = {SECONDARY_ENABLE_EPT, SECONDARY_UNRESTRICTED_GUEST, 0};
    c.word[WORD_SECONDARY] ^= PICK(bits) & allowed1(WORD_SECONDARY);
    if (one_in(6) && !(allowed0(WORD_PRIMARY) & PRIMARY_ACTIVATE_SECONDARY))
        c.word[WORD_PRIMARY] ^= PRIMARY_ACTIVATE_SECONDARY & allowed1(WORD_PRIMARY);
    make_consistent(&c);
    bool secondary = c.word[WORD_PRIMARY] & PRIMARY_ACTIVATE_SECONDARY;
    bool ept = secondary && (c.word[WORD_SECONDARY] & SECONDARY_ENABLE_EPT);
    bool unrestricted = ept && (c.word[WORD_SECONDARY] & SECONDARY_UNRESTRICTED_GUEST);
    enum guest_mode mode = random_mode(!ept);
    if ((mode == MODE_REAL || mode == MODE_NOT_PAGED) && !unrestricted)
        mode = MODE_64;
    generating.region[r].mode = (uint8_t)mode;
    generating.region[r].without_ept = !ept;
    plan_controls(a, &c);
    plan_forget_translations(a);
    plan(a, (struct step){.kind = STEP_GUEST, .level = 1, .op = {.a = (unsigned)r, .b = mode, .flag = !ept}});
}

// --- values

static uint64_t random_canonical(void)
{
    return (uint64_t)((int64_t)(random_word() << 16) >> 16);
}

static uint64_t guest_value(struct actor *a, enum vmcs_field field, uint64_t old)
{
    static const uint64_t cr0_bits[] = {CR0_TS, CR0_WP, CR0_AM, CR0_MP, CR0_EM};
    static const uint64_t cr4_bits[] = {CR4_PGE, 1u << 3, 1u << 2, 1u << 9, CR4_OSXSAVE, 1u << 10};
    static const uint64_t flags[] = {1,         4,         0x10,  0x40,  0x80,  RFLAGS_IF,
                                     RFLAGS_IF, RFLAGS_TF, 0x400, 0x800, 0x3000};
    static const uint64_t blocking[] = {0, 0, INTERRUPTIBILITY_STI, INTERRUPTIBILITY_MOV_SS,
                                        INTERRUPTIBILITY_NMI};
    switch (field) {
    case F_GUEST_RIP:
        return (a->cpu->current->data.field[F_GUEST_CS_BASE] ? 0 : L2_CODE) + random_below(0x8000);
    case F_GUEST_RSP:
        if (one_in(6)) // where pushing fails, or exits
            return (one_in(2) ? L2_EPT_HOLE : L2_NOT_MAPPED) + 0x800;
        return L2_STACK - 8 * random_below(32);
    case F_GUEST_RFLAGS:
        return old ^ PICK(flags);
    case F_GUEST_CR0:
        return old ^ PICK(cr0_bits);
    case F_GUEST_CR4:
        return old ^ PICK(cr4_bits);
    case F_GUEST_INTERRUPTIBILITY:
        return PICK(blocking);
    case F_GUEST_ACTIVITY_STATE:
        return one_in(2) ? ACTIVITY_ACTIVE : random_below(4);
    case F_GUEST_PENDING_DEBUG_EXCEPTIONS:
        return one_in(2) ? 0 : (uint64_t[]){1, 0x1000, 0x1001, 0x4000}[random_below(4)];
    case F_GUEST_FS_BASE:
    case F_GUEST_GS_BASE:
    case F_GUEST_SYSENTER_ESP:
    case F_GUEST_SYSENTER_EIP:
        return random_canonical();
    case F_GUEST_DR7:
        return 0x400 | random_below(2) << 9;
    case F_GUEST_IA32_DEBUGCTL:
        return random_below(4);
    case F_GUEST_IA32_EFER:
        return old ^ EFER_SCE;
    case F_GUEST_IA32_PAT:
        return 0x0007040600070406 ^ random_below(2);
    case F_GUEST_INTERRUPT_STATUS:
        return random_below(0x100) | random_below(0x100) << 8;
    case F_GUEST_GDTR_LIMIT:
        return random_below(0x10000);
    case F_GUEST_SYSENTER_CS:
        return random_below(0x10000);
    default:
        return old;
    }
}

static uint64_t control_value(struct actor *a, enum vmcs_field field, uint64_t old)
{
    int r = current_region(a);
    unsigned g = field_guest_of((unsigned)r);
    switch (field) {
    case F_EXCEPTION_BITMAP:
        return one_in(2) ? random_sparse_word() : old ^ 1u << random_below(32);
    case F_PAGE_FAULT_ERROR_CODE_MASK:
    case F_PAGE_FAULT_ERROR_CODE_MATCH:
        return random_below(8);
    case F_CR0_GUEST_HOST_MASK:
        return one_in(3) ? 0 : random_word() & 0xe005003f;
    case F_CR4_GUEST_HOST_MASK:
        return one_in(3) ? 0 : random_word() & 0x427ff;
    case F_CR0_READ_SHADOW:
        return random_word() & 0xe005003f;
    case F_CR4_READ_SHADOW:
        return random_word() & 0x427ff;
    case F_CR3_TARGET_COUNT:
        return random_below(5);
    case F_CR3_TARGET_0:
    case F_CR3_TARGET_1:
    case F_CR3_TARGET_2:
    case F_CR3_TARGET_3:
        return one_in(2) ? L2_TABLES : L2_TABLES | 0x18;
    case F_TSC_OFFSET:
        return random_word();
    case F_TSC_MULTIPLIER:
        return 1ull << (40 + random_below(12));
    case F_VPID:
        return 1u + (unsigned)r + (one_in(2) ? REGION_COUNT : 0); // not another guest's
    case F_EPT_POINTER:
        return one_in(2) ? EPTP_OF(g) : EPTP_LARGE_OF(g);
    case F_VM_EXIT_MSR_STORE_COUNT:
    case F_VM_EXIT_MSR_LOAD_COUNT:
    case F_VM_ENTRY_MSR_LOAD_COUNT:
        return random_below(4);
    case F_TPR_THRESHOLD:
        return random_below(one_in(4) ? 16 : 3);
    case F_PLE_GAP:
    case F_PLE_WINDOW:
        return random_below(0x1000);
    case F_EOI_EXIT_BITMAP_0:
    case F_EOI_EXIT_BITMAP_1:
    case F_EOI_EXIT_BITMAP_2:
    case F_EOI_EXIT_BITMAP_3:
    case F_XSS_EXITING_BITMAP:
        return random_sparse_word();
    case F_VM_ENTRY_EXCEPTION_ERROR_CODE:
        return random_below(0x100) * 8;
    case F_VM_ENTRY_INSTRUCTION_LENGTH:
        return 1 + random_below(15);
    default:
        return old;
    }
}

static uint64_t host_value(enum vmcs_field field, uint64_t old)
{
    switch (field) {
    case F_HOST_FS_BASE:
    case F_HOST_GS_BASE:
    case F_HOST_GDTR_BASE:
    case F_HOST_SYSENTER_ESP:
    case F_HOST_SYSENTER_EIP:
        return random_canonical();
    case F_HOST_DS_SELECTOR:
    case F_HOST_ES_SELECTOR:
    case F_HOST_FS_SELECTOR:
    case F_HOST_GS_SELECTOR:
    case F_HOST_SS_SELECTOR:
        return one_in(2) ? 0 : 8u * random_below(0x100);
    case F_HOST_TR_SELECTOR:
        return 8u + 8u * random_below(0x100);
    case F_HOST_SYSENTER_CS:
        return random_below(0x10000);
    case F_HOST_CR0:
        return old ^ (one_in(2) ? CR0_TS : CR0_AM);
    case F_HOST_CR4:
        return old ^ (one_in(2) ? CR4_PGE : CR4_OSXSAVE);
    case F_HOST_IA32_PAT:
        return 0x0007040600070406 ^ random_below(2);
    case F_HOST_IA32_EFER:
        return old ^ EFER_SCE;
    case F_HOST_RSP:
        return L1_HOST_STACK + 0x1000 - 16 * random_below(4);
    default:
        return old;
    }
}

uint64_t plausible_value(struct actor *a, enum vmcs_field field)
{
    uint64_t old = current_field(a, field);
    if (old == model_poison(a->cpu->machine, a->cpu->current_pointer, field))
        old = 0;
    switch (vmcs_encoding_type(model_field_encoding(field))) {
    case VMCS_TYPE_GUEST:
        return guest_value(a, field, old);
    case VMCS_TYPE_HOST:
        return host_value(field, old);
    case VMCS_TYPE_CONTROL:
        return control_value(a, field, old);
    default:
        return random_word();
    }
}

enum vmcs_field random_field(void)
{
    for (;;) {
        enum vmcs_field field = (enum vmcs_field)random_below(F_COUNT);
        if (field_is_of_l1(field))
            return field;
    }
}

static void plan_field(struct actor *a)
{
    static const enum vmcs_field hot[] = {
        F_GUEST_RIP,        F_GUEST_RSP, F_GUEST_RFLAGS,        F_GUEST_INTERRUPTIBILITY,
        F_EXCEPTION_BITMAP, F_GUEST_CR0, F_GUEST_ACTIVITY_STATE};
    enum vmcs_field field = one_in(3) ? PICK(hot) : random_field();
    for (unsigned i = 0; i < 5; i++)
        if (field == word_fields[i])
            return;
    if (field == F_GUEST_ACTIVITY_STATE) // the others must be active for an injection
        plan_write(a, F_VM_ENTRY_INTERRUPTION_INFO, 0);
    plan_write(a, field, plausible_value(a, field));
}

// RIP behind the instruction that exited, as a hypervisor does.
static void plan_skip(struct actor *a)
{
    uint64_t length = current_field(a, F_VM_EXIT_INSTRUCTION_LENGTH);
    uint64_t rip = current_field(a, F_GUEST_RIP);
    plan_l1(a, VMREAD(GPR_RAX, VMCS_GUEST_RIP));
    plan_l1(a, VMREAD(GPR_RBX, VMCS_VM_EXIT_INSTRUCTION_LENGTH));
    plan_write(a, F_GUEST_RIP, length <= 15 ? rip + length : L2_CODE);
}

static void plan_injection(struct actor *a)
{
    static const uint32_t events[] = {
        0x80000033, 0x80000045, 0x80000202, 0x80000300, 0x80000306, 0x80000b0d, 0x80000b0e, 0x80000b08,
        0x80000b0b, 0x80000603, 0x80000604, 0x80000420, 0x80000501, 0x80000700, 0x80000303, 0x80000301,
    };
    uint32_t event = PICK(events);
    bool protected_mode = current_field(a, F_GUEST_CR0) & CR0_PE;
    if (!protected_mode && one_in(4))
        event &= ~INTERRUPTION_ERROR_CODE;
    if (current_field(a, F_GUEST_ACTIVITY_STATE) != ACTIVITY_ACTIVE)
        plan_write(a, F_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    if ((event & 0x700) == 0) {
        plan_write(a, F_GUEST_INTERRUPTIBILITY, 0);
        plan_write(a, F_GUEST_RFLAGS, current_field(a, F_GUEST_RFLAGS) | RFLAGS_IF);
    }
    if (event == 0x80000202)
        plan_write(a, F_GUEST_INTERRUPTIBILITY, 0);
    if (event & INTERRUPTION_ERROR_CODE)
        plan_write(a, F_VM_ENTRY_EXCEPTION_ERROR_CODE, random_below(0x100) * 8);
    if ((event & 0x400) != 0)
        plan_write(a, F_VM_ENTRY_INSTRUCTION_LENGTH, 1 + random_below(15));
    plan_write(a, F_VM_ENTRY_INTERRUPTION_INFO, event);
}

// --- what the VMCS points to; L2 does not run meanwhile

static void plan_bitmap_change(struct actor *a)
{
    unsigned r = (unsigned)current_region(a);
    static const uint32_t msr_offsets[] = {0,     0x10 / 8,          0x48,  0x174 / 8, 0x270 / 8,
                                           0x100, 0x480 / 8 & ~7u,   0x400, 0x410,     0x420,
                                           0x800, 0x800 + 0x174 / 8, 0x900, 0xc00,     0xc10};
    static const uint32_t io_offsets[] = {0x60 / 8, 0x70 / 8, 0x3f8 / 8, 0x7ff, 0x800, 0xff8, 0xcf8 / 8};
    uint64_t value = one_in(3) ? 0 : one_in(2) ? ~0ull : random_word();
    uint64_t at = one_in(2) ? MSR_BITMAP_OF(r) + (PICK(msr_offsets) & ~7u)
                            : IO_BITMAP_OF(r) + (one_in(3) ? 0x1000 : 0) + (PICK(io_offsets) & ~7u);
    plan_l1(a, WRITE(at, value));
}

static bool other_runs_guest(const struct actor *a, unsigned g)
{
    for (unsigned i = 0; i < world->config.vcpu_count; i++) {
        const struct hw_cpu *cpu = world->processor[i].cpu;
        if (i != a->vcpu && cpu->vmx == VMX_NON_ROOT)
            return true;
    }
    (void)g;
    return false;
}

static void note_changed_tables(struct actor *a)
{
    for (unsigned i = 0; i < WORLD_VCPU_LIMIT; i++)
        generating.actor[i].stale |= i != a->vcpu;
}

// An entry that was not present needs no invalidation; any other change does.
static void plan_ept_change(struct actor *a)
{
    unsigned g = field_guest_of((unsigned)current_region(a));
    if (!(allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_EPT) || other_runs_guest(a, g))
        return;
    unsigned page = (one_in(2) ? L2_EPT_HOLE : L2_DATA) / PAGE_SIZE + random_below(8);
    uint64_t old, to = L2_MEMORY(g) + PAGE_SIZE * (one_in(2) ? page : L2_DATA / PAGE_SIZE + random_below(16));
    memcpy(&old, l1_memory(EPT_ENTRY(g, page)), 8);
    static const uint64_t rights[] = {7, 7, 7, 3, 5, 1, 0, 2, 6, 4};
    uint64_t entry = to | 6 << 3 | PICK(rights);
    plan_l1(a, WRITE(EPT_ENTRY(g, page), one_in(12) ? entry | 3 << 3 : entry));
    if ((old & 7) == 0 && !one_in(3))
        return;
    note_changed_tables(a);
    if (one_in(2))
        plan_l1(a, INVEPT(2, ZERO_SLOT));
    else
        plan_l1(a, INVEPT(1, EPTP_SLOT(g)));
}

// L1 edits L2's page tables, and invalidates what may be cached under any VPID.
static void plan_page_table_change(struct actor *a)
{
    unsigned g = field_guest_of((unsigned)current_region(a));
    if (other_runs_guest(a, g))
        return;
    unsigned page = L2_DATA / PAGE_SIZE + 8 + random_below(8);
    static const uint64_t rights[] = {7, 7, 3, 5, 1, 0};
    uint64_t to = one_in(2) ? page : L2_DATA / PAGE_SIZE + random_below(16);
    plan_l1(a, WRITE(L2_MEMORY(g) + (uint64_t)L2_PTE(page), to * PAGE_SIZE | PICK(rights)));
    note_changed_tables(a);
    if (allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_VPID)
        plan_l1(a, INVVPID(2, ZERO_SLOT));
    if (allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_EPT &&
        !(allowed1(WORD_SECONDARY) & SECONDARY_ENABLE_VPID))
        plan_l1(a, INVEPT(2, ZERO_SLOT));
}

static void plan_list_change(struct actor *a)
{
    unsigned r = (unsigned)current_region(a);
    static const uint32_t msrs[] = {
        0xc0000081, 0xc0000082, 0xc0000102, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP, MSR_IA32_PAT};
    static const uint32_t bad[] = {MSR_FS_BASE, 0x808, 0x12345, 0x9e};
    uint64_t list =
        (uint64_t[]){ENTRY_LIST_OF(r), ENTRY_LIST_OF(r), STORE_LIST_OF(r), EXIT_LIST_OF(r)}[random_below(4)];
    uint64_t at = list + 16 * random_below(4);
    uint32_t msr = list == ENTRY_LIST_OF(r) && one_in(8) ? PICK(bad) : PICK(msrs);
    uint64_t value =
        msr == MSR_IA32_PAT ? 0x0007040600070406 ^ random_below(2) : random_below(0x10000) * 0x1000ull;
    plan_l1(a, WRITE(at, msr));
    plan_l1(a, WRITE(at + 8, value));
}

static void plan_virtual_apic_change(struct actor *a)
{
    static const uint32_t registers[] = {0x80, 0xa0, 0x100, 0x130, 0x200, 0x210, 0x230, 0x20, 0x300};
    struct op op = WRITE(VIRTUAL_APIC_OF((unsigned)current_region(a)) + PICK(registers), random_below(0x100));
    op.size = 4;
    plan_l1(a, op);
}

void plan_vmcs_change(struct actor *a)
{
    unsigned choice = random_below(100);
    if (choice < 28)
        plan_toggle(a);
    else if (choice < 31)
        plan_toggle_memory(a);
    else if (choice < 55)
        plan_field(a);
    else if (choice < 68)
        plan_skip(a);
    else if (choice < 78)
        plan_injection(a);
    else if (choice < 84)
        plan_bitmap_change(a);
    else if (choice < 90)
        plan_ept_change(a);
    else if (choice < 92)
        plan_page_table_change(a);
    else if (choice < 96)
        plan_list_change(a);
    else
        plan_virtual_apic_change(a);
}
