// SPDX-License-Identifier: MIT
// What L1 writes into a VMCS so that it works: a value for every field that its processor has, taken from its
// capability MSRs; and the operations that the compound steps stand for.
#include "explore.h"

uint32_t allowed1(enum control_word word)
{
    return capability_allowed1(world_l1_processor(), word);
}

uint32_t allowed0(enum control_word word)
{
    return capability_allowed0(world_l1_processor(), word);
}

bool field_is_of_l1(enum vmcs_field field)
{
    return model_field_exists(world_l1_processor(), field);
}

unsigned field_guest_of(unsigned region)
{
    return region % GUEST_COUNT;
}

bool mode_is_possible(enum guest_mode mode, bool without_ept)
{
    if (mode != MODE_REAL && mode != MODE_NOT_PAGED)
        return true;
    return !without_ept && (allowed1(WORD_SECONDARY) & SECONDARY_UNRESTRICTED_GUEST);
}

static uint32_t controls(enum control_word word, uint32_t wanted)
{
    return (wanted & allowed1(word)) | allowed0(word);
}

static bool is_long(enum guest_mode mode)
{
    return mode == MODE_64 || mode == MODE_COMPATIBILITY;
}

static uint64_t control_base(enum vmcs_field field, unsigned r, enum guest_mode mode, bool without_ept)
{
    switch (field) {
    case F_PIN_BASED_CONTROLS:
        return controls(WORD_PIN, 0);
    case F_PRIMARY_CONTROLS:
        return controls(WORD_PRIMARY, PRIMARY_USE_MSR_BITMAPS | PRIMARY_ACTIVATE_SECONDARY);
    case F_SECONDARY_CONTROLS:
        return controls(WORD_SECONDARY,
                        SECONDARY_ENABLE_VPID | SECONDARY_ENABLE_RDTSCP |
                            (without_ept ? 0 : SECONDARY_ENABLE_EPT | SECONDARY_UNRESTRICTED_GUEST));
    case F_VM_EXIT_CONTROLS:
        return controls(WORD_EXIT, EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_EFER | EXIT_LOAD_EFER |
                                       EXIT_SAVE_PAT | EXIT_LOAD_PAT | EXIT_SAVE_DEBUG_CONTROLS);
    case F_VM_ENTRY_CONTROLS:
        return controls(WORD_ENTRY, (is_long(mode) ? ENTRY_IA32E_MODE_GUEST : 0) | ENTRY_LOAD_EFER |
                                        ENTRY_LOAD_PAT | ENTRY_LOAD_DEBUG_CONTROLS);
    case F_VPID:
        return r + 1;
    case F_EPT_POINTER:
        return EPTP_OF(field_guest_of(r));
    case F_IO_BITMAP_A:
        return IO_BITMAP_OF(r);
    case F_IO_BITMAP_B:
        return IO_BITMAP_OF(r) + 0x1000;
    case F_MSR_BITMAP:
        return MSR_BITMAP_OF(r);
    case F_VM_ENTRY_MSR_LOAD_ADDRESS:
        return ENTRY_LIST_OF(r);
    case F_VM_EXIT_MSR_STORE_ADDRESS:
        return STORE_LIST_OF(r);
    case F_VM_EXIT_MSR_LOAD_ADDRESS:
        return EXIT_LIST_OF(r);
    case F_VIRTUAL_APIC_ADDRESS:
        return VIRTUAL_APIC_OF(r);
    case F_APIC_ACCESS_ADDRESS:
        return APIC_ACCESS_OF(field_guest_of(r));
    case F_PML_ADDRESS:
    case F_EPTP_LIST_ADDRESS:
    case F_VIRTUALIZATION_EXCEPTION_ADDRESS:
    case F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS:
    case F_VMREAD_BITMAP:
    case F_VMWRITE_BITMAP:
        return OTHER_PAGE_OF(r);
    case F_TSC_MULTIPLIER:
        return 1ull << 48;
    default:
        return 0;
    }
}

static uint64_t host_base(enum vmcs_field field)
{
    switch (field) {
    case F_HOST_CR0:
        return CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_MP;
    case F_HOST_CR3:
        return L1_PAGE_TABLES;
    case F_HOST_CR4:
        return CR4_PAE | CR4_VMXE;
    case F_HOST_IA32_EFER:
        return EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    case F_HOST_IA32_PAT:
        return 0x0007040600070406;
    case F_HOST_CS_SELECTOR:
        return 0x08;
    case F_HOST_TR_SELECTOR:
        return 0x18;
    case F_HOST_ES_SELECTOR:
    case F_HOST_SS_SELECTOR:
    case F_HOST_DS_SELECTOR:
    case F_HOST_FS_SELECTOR:
    case F_HOST_GS_SELECTOR:
        return 0x10;
    case F_HOST_FS_BASE:
        return 0x1111000;
    case F_HOST_GS_BASE:
        return 0x2222000;
    case F_HOST_TR_BASE:
        return L1_TSS;
    case F_HOST_GDTR_BASE:
        return 0x3333000;
    case F_HOST_IDTR_BASE:
        return L1_IDT;
    case F_HOST_SYSENTER_CS:
        return 0x08;
    case F_HOST_SYSENTER_ESP:
        return 0x4444000;
    case F_HOST_SYSENTER_EIP:
        return 0x5555000;
    case F_HOST_RSP:
        return L1_HOST_STACK + 0x1000;
    case F_HOST_RIP:
        return L1_EXIT_PAD;
    default:
        return 0;
    }
}

static uint64_t segment_selector(unsigned segment, enum guest_mode mode)
{
    if (segment == SEGMENT_LDTR)
        return 0;
    if (segment == SEGMENT_TR)
        return 0x18;
    if (mode == MODE_REAL || mode == MODE_V86)
        return segment == SEGMENT_CS ? L2_CODE >> 4 : 0;
    return segment == SEGMENT_CS ? 0x08 : 0x10;
}

static uint64_t segment_rights(unsigned segment, enum guest_mode mode)
{
    if (segment == SEGMENT_LDTR)
        return SEGMENT_UNUSABLE;
    if (segment == SEGMENT_TR)
        return 0x8b;
    if (mode == MODE_V86)
        return 0xf3;
    if (mode == MODE_REAL)
        return segment == SEGMENT_CS ? 0x9b : 0x93;
    if (segment == SEGMENT_CS)
        return mode == MODE_64 ? 0xa09b : 0xc09b;
    return 0xc093;
}

static uint64_t segment_limit(unsigned segment, enum guest_mode mode)
{
    if (segment == SEGMENT_TR)
        return 0x67;
    return mode == MODE_V86 || mode == MODE_REAL ? 0xffff : 0xffffffff;
}

static uint64_t segment_base(unsigned segment, enum guest_mode mode)
{
    if (segment == SEGMENT_TR)
        return L2_TSS;
    return segment == SEGMENT_CS && (mode == MODE_V86 || mode == MODE_REAL) ? L2_CODE : 0;
}

static uint64_t guest_cr0(enum guest_mode mode)
{
    uint64_t cr0 = CR0_NE | CR0_ET | CR0_WP | CR0_MP;
    if (mode == MODE_REAL)
        return cr0;
    return cr0 | CR0_PE | (mode == MODE_NOT_PAGED ? 0 : CR0_PG);
}

static uint64_t guest_cr3(unsigned g, enum guest_mode mode, bool without_ept)
{
    uint64_t at = mode == MODE_PAE ? (without_ept ? L2_FLAT + 0x4000 : L2_PDPT_PAE)
                  : is_long(mode)  ? (without_ept ? L2_FLAT : L2_TABLES)
                                   : (without_ept ? L2_FLAT + 0x5000 : L2_TABLES_32);
    return without_ept ? L2_MEMORY(g) + at : at;
}

static uint64_t guest_base(enum vmcs_field field, unsigned g, enum guest_mode mode, bool without_ept)
{
    if (field >= F_GUEST_ES_SELECTOR && field <= F_GUEST_TR_SELECTOR)
        return segment_selector(field - F_GUEST_ES_SELECTOR, mode);
    if (field >= F_GUEST_ES_LIMIT && field <= F_GUEST_TR_LIMIT)
        return segment_limit(field - F_GUEST_ES_LIMIT, mode);
    if (field >= F_GUEST_ES_BASE && field <= F_GUEST_TR_BASE)
        return segment_base(field - F_GUEST_ES_BASE, mode);
    if (field >= F_GUEST_ES_ACCESS_RIGHTS && field <= F_GUEST_TR_ACCESS_RIGHTS)
        return segment_rights(field - F_GUEST_ES_ACCESS_RIGHTS, mode);
    switch (field) {
    case F_GUEST_CR0:
        return guest_cr0(mode);
    case F_GUEST_CR3:
        return guest_cr3(g, mode, without_ept);
    case F_GUEST_CR4:
        return CR4_VMXE | (mode == MODE_32 || mode == MODE_V86 || mode == MODE_REAL ? 0 : CR4_PAE);
    case F_GUEST_PDPTE0:
        return mode == MODE_PAE ? (L2_TABLES + 0x2000) | 1 : 0;
    case F_GUEST_IA32_EFER:
        return EFER_NXE | (is_long(mode) ? EFER_LME | EFER_LMA : 0);
    case F_GUEST_IA32_PAT:
        return 0x0007040600070406;
    case F_GUEST_DR7:
        return 0x400;
    case F_GUEST_RSP:
        return L2_STACK;
    case F_GUEST_RIP:
        return mode == MODE_REAL || mode == MODE_V86 ? 0 : L2_CODE;
    case F_GUEST_RFLAGS:
        return RFLAGS_FIXED | (mode == MODE_V86 ? RFLAGS_VM : 0);
    case F_GUEST_GDTR_BASE:
        return 0x7000;
    case F_GUEST_GDTR_LIMIT:
        return 0xffff;
    case F_GUEST_IDTR_BASE:
        return is_long(mode) ? L2_IDT : mode == MODE_REAL ? 0 : L2_IDT_32;
    case F_GUEST_IDTR_LIMIT:
        return is_long(mode) ? 0xfff : mode == MODE_REAL ? 0x3ff : 0x7ff;
    case F_VMCS_LINK_POINTER:
        return ~0ull;
    default:
        return 0;
    }
}

uint64_t field_base(enum vmcs_field field, unsigned region, enum guest_mode mode, bool without_ept)
{
    switch (vmcs_encoding_type(model_field_encoding(field))) {
    case VMCS_TYPE_CONTROL:
        return control_base(field, region, mode, without_ept);
    case VMCS_TYPE_HOST:
        return host_base(field);
    case VMCS_TYPE_GUEST:
        return guest_base(field, field_guest_of(region), mode, without_ept);
    default:
        return 0;
    }
}

// The fields that a PREPARE and a GUEST write, of L1's processor.
static struct {
    uint8_t prepare[F_COUNT], guest[F_COUNT];
    unsigned prepare_count, guest_count;
} written;
_Static_assert(F_COUNT <= UINT8_MAX, "field numbers fit");

void fields_begin(void)
{
    written.prepare_count = written.guest_count = 0;
    for (unsigned i = 0; i < F_COUNT; i++) {
        enum vmcs_field field = (enum vmcs_field)i;
        unsigned type = vmcs_encoding_type(model_field_encoding(field));
        if (type == VMCS_TYPE_INFO || !field_is_of_l1(field))
            continue;
        written.prepare[written.prepare_count++] = (uint8_t)i;
        if (type == VMCS_TYPE_GUEST || field == F_VM_ENTRY_CONTROLS || field == F_VM_ENTRY_INTERRUPTION_INFO)
            written.guest[written.guest_count++] = (uint8_t)i;
    }
}

static struct op write_of(enum vmcs_field field, const struct step *step)
{
    uint64_t value = field_base(field, (unsigned)step->op.a, (enum guest_mode)step->op.b, step->op.flag);
    return VMWRITE(model_field_encoding(field), value);
}

bool compound_operation(const struct step *step, unsigned index, struct op *op)
{
    int64_t slot = VMCS_SLOT(step->op.a % REGION_COUNT);
    uint64_t region = VMCS_AT(step->op.a % REGION_COUNT);
    if (step->kind == STEP_ENTER_VMX && index < 2) {
        *op = index == 0 ? MOV_TO_CR(4, CR4_PAE | CR4_VMXE) : VMXON(VMXON_SLOT(step->vcpu));
        return true;
    }
    if (step->kind == STEP_ENTER_VMX)
        return false;
    if (step->kind == STEP_PREPARE && index < 3) {
        if (index == 0)
            *op = VMCLEAR(slot);
        else if (index == 1)
            *op = OP(.kind = OP_WRITE, .a = region, .size = 4,
                     .b = (uint32_t)world_l1_processor()->vmx.msr[0] & 0x7fffffff);
        else
            *op = VMPTRLD(slot);
        return true;
    }
    if (step->kind == STEP_PREPARE)
        index -= 3;
    unsigned count = step->kind == STEP_PREPARE ? written.prepare_count : written.guest_count;
    if (index >= count)
        return false;
    const uint8_t *fields = step->kind == STEP_PREPARE ? written.prepare : written.guest;
    *op = write_of((enum vmcs_field)fields[index], step);
    return true;
}
