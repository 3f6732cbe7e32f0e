// SPDX-License-Identifier: MIT
// pairs.def as code, and the valid VMCSs that it starts from.
#include "pairs.h"

#define RIGHTS_CODE64    0xa09bu
#define RIGHTS_CODE32    0xc09bu
#define RIGHTS_CODE16    0x9bu
#define RIGHTS_DATA      0xc093u
#define RIGHTS_DATA16    0x93u
#define RIGHTS_VM86      0xf3u
#define RIGHTS_BUSY_TSS  0x8bu
#define RIGHTS_LDT       0x82u
#define PAT_VALUE        0x0007040600070406ull
#define PAT_ALL_TYPES    0x0001040506070006ull
#define LAST_CANONICAL   0x00007fffffffffffull
#define NOT_CANONICAL    0x0000800000000000ull
#define FIRST_HIGH       0xffff800000000000ull
#define BELOW_FIRST_HIGH 0xffff7fffffffffffull
#define RFLAGS_DEFINED   0x3f7fd7ull

enum base { LONG, PROTECTED, PAE, VM86, REAL, COMPATIBILITY, BASE_COUNT };

// In pairs.def: f is the VMCS, w the world.
#define V(name)        f[F_##name]
#define AR(s)          f[F_GUEST_##s##_ACCESS_RIGHTS]
#define SEL(s)         f[F_GUEST_##s##_SELECTOR]
#define LIMIT(s)       f[F_GUEST_##s##_LIMIT]
#define BASE(s)        f[F_GUEST_##s##_BASE]
#define ON(word, bit)  (f[F_##word] |= (bit))
#define ON2(bits)      secondary_on(f, bits)
#define AT(page)       (w->scratch + PAIR_PAGE_##page)
#define TOO_WIDE       (1ull << w->physical_width)
#define TOP_PAGE       (TOO_WIDE - PAGE_SIZE)
#define MAY(word, bit) ((nvmx_caps_allowed1(w->caps, CAPS_##word) & (bit)) != 0)
#define HAS(name)      ((w->caps->features & FEATURE_##name) != 0)
#define CAP(name)      (w->caps->msr[MSR_IA32_VMX_##name - CAPS_MSR_FIRST])
// The boundary where nothing of it is used, and a value nearby where it is.
#define EDGE(boundary, usable) (w->mode == PAIR_DIRECT ? (boundary) : (usable))
#define CALM(boundary, usable) (w->mode == PAIR_RUN ? (usable) : (boundary))
#define LIVE(name)             (w->host[F_##name])
#define INJECTION(value)                                                                                     \
    (f[F_VM_ENTRY_INTERRUPTION_INFO] = INTERRUPTION_VALID | (value), f[F_VM_ENTRY_EXCEPTION_ERROR_CODE] = 0, \
     f[F_VM_ENTRY_INSTRUCTION_LENGTH] = 1)
#define EVENT(type, vector) ((uint32_t)(type) << INTERRUPTION_TYPE_SHIFT | (vector))

static void secondary_on(uint64_t *f, uint64_t bits)
{
    f[F_PRIMARY_CONTROLS] |= PRIMARY_ACTIVATE_SECONDARY;
    f[F_SECONDARY_CONTROLS] |= bits;
}

static uint64_t lowest(uint64_t bits)
{
    return bits & -bits;
}

// The highest bit: one that stands for nothing that other rules are about.
static uint64_t forbidden(const struct pair_world *w, enum caps_word word)
{
    uint32_t bits = ~nvmx_caps_allowed1(w->caps, word);
    return bits == 0 ? 0 : 1ull << (31 - __builtin_clz(bits));
}

static uint64_t required(const struct pair_world *w, enum caps_word word)
{
    return lowest(nvmx_caps_allowed0(w->caps, word));
}

static void store(const struct pair_world *w, uint64_t at, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        w->memory[at + i] = (uint8_t)(value >> (8 * i));
}

static void scratch_fill(const struct pair_world *w)
{
    // Volatile: no memset here.
    for (volatile uint8_t *at = w->memory; at < w->memory + PAIR_SCRATCH_SIZE; at++)
        *at = 0;
    for (uint64_t at = 0; at < PAGE_SIZE; at += 16) { // index, reserved, value
        bool harmless = PAIR_PAGE_LISTS + at >= PAIR_LIST_HARMLESS;
        store(w, PAIR_PAGE_LISTS + at, harmless ? MSR_IA32_SYSENTER_CS : MSR_FS_BASE, 4);
    }
    store(w, PAIR_PAGE_LINK, w->caps->msr[0] & 0x7fffffff, 4);
}

static void base_segment(uint64_t *f, unsigned i, uint64_t selector, uint64_t base, uint64_t limit,
                         uint64_t rights)
{
    f[F_GUEST_ES_SELECTOR + i] = selector;
    f[F_GUEST_ES_BASE + i] = base;
    f[F_GUEST_ES_LIMIT + i] = limit;
    f[F_GUEST_ES_ACCESS_RIGHTS + i] = rights;
}

static void base_segments(uint64_t *f, enum base base)
{
    enum { CS = 1, LDTR = 6, TR = 7 };
    for (unsigned i = 0; i < LDTR; i++) {
        if (base == VM86)
            base_segment(f, i, 0x100, 0x1000, 0xffff, RIGHTS_VM86);
        else if (base == REAL)
            base_segment(f, i, 0x100, 0x1000, 0xffff, i == CS ? RIGHTS_CODE16 : RIGHTS_DATA16);
        else
            base_segment(f, i, i == CS ? 8 : 16, 0, 0xffffffff,
                         i != CS        ? RIGHTS_DATA
                         : base == LONG ? RIGHTS_CODE64
                                        : RIGHTS_CODE32);
    }
    base_segment(f, LDTR, 0, 0, 0, SEGMENT_UNUSABLE);
    base_segment(f, TR, 0x18, 0x6000, 0x67, RIGHTS_BUSY_TSS);
}

static void base_controls(uint64_t *f, const struct pair_world *w, enum base base)
{
    bool ia32e = base == LONG || base == COMPATIBILITY;
    V(PIN_BASED_CONTROLS) = nvmx_caps_allowed0(w->caps, CAPS_PIN);
    V(PRIMARY_CONTROLS) = nvmx_caps_allowed0(w->caps, CAPS_PRIMARY);
    V(SECONDARY_CONTROLS) = nvmx_caps_allowed0(w->caps, CAPS_SECONDARY);
    V(VM_EXIT_CONTROLS) =
        nvmx_caps_allowed0(w->caps, CAPS_EXIT) | (w->long_mode ? EXIT_HOST_ADDRESS_SPACE_SIZE : 0);
    V(VM_ENTRY_CONTROLS) = nvmx_caps_allowed0(w->caps, CAPS_ENTRY) | (ia32e ? ENTRY_IA32E_MODE_GUEST : 0);
    V(IO_BITMAP_A) = V(IO_BITMAP_B) = V(MSR_BITMAP) = V(APIC_ACCESS_ADDRESS) = AT(ZERO);
    V(VMREAD_BITMAP) = V(VMWRITE_BITMAP) = V(PML_ADDRESS) = V(EPTP_LIST_ADDRESS) = AT(ZERO);
    V(VIRTUALIZATION_EXCEPTION_ADDRESS) = V(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS) = AT(ZERO);
    V(VIRTUAL_APIC_ADDRESS) = AT(APIC);
    V(EPT_POINTER) = AT(ZERO) | 3 << 3 | ((CAP(EPT_VPID_CAP) & EPT_CAP_MEMORY_TYPE_WB) != 0 ? 6 : 0);
    V(VPID) = 1;
    V(TSC_MULTIPLIER) = 1ull << 48;
    V(VM_ENTRY_MSR_LOAD_ADDRESS) = V(VM_EXIT_MSR_STORE_ADDRESS) = AT(LISTS);
    V(VM_EXIT_MSR_LOAD_ADDRESS) = w->scratch + PAIR_LIST_HARMLESS;
    if (w->mode == PAIR_STOP)
        V(VM_ENTRY_MSR_LOAD_COUNT) = 1;
    V(VMCS_LINK_POINTER) = ~0ull;
}

static void make_base(uint64_t *f, const struct pair_world *w, enum base base)
{
    for (volatile uint64_t *at = f; at < f + F_COUNT; at++)
        *at = 0;
    scratch_fill(w);
    base_controls(f, w, base);
    for (unsigned i = 0; i < F_COUNT; i++)
        if (vmcs_encoding_type(vmcs_field_encoding((enum vmcs_field)i)) == VMCS_TYPE_HOST)
            f[i] = w->host[i];
    base_segments(f, base);
    V(GUEST_CR0) = (CAP(CR0_FIXED0) | CR0_ET) & CAP(CR0_FIXED1);
    V(GUEST_CR4) = CAP(CR4_FIXED0);
    V(GUEST_RFLAGS) = RFLAGS_FIXED | (base == VM86 ? RFLAGS_VM : 0);
    if (base == LONG || base == COMPATIBILITY || base == PAE)
        V(GUEST_CR4) |= CR4_PAE;
    V(GUEST_CR3) = AT(PDPT);
    if (base == REAL) {
        V(GUEST_CR0) &= ~(CR0_PE | CR0_PG);
        ON2(SECONDARY_UNRESTRICTED_GUEST | SECONDARY_ENABLE_EPT);
    }
    V(GUEST_IA32_EFER) = base == LONG || base == COMPATIBILITY ? EFER_LME | EFER_LMA : 0;
    V(GUEST_IA32_PAT) = PAT_VALUE;
    V(GUEST_GDTR_BASE) = 0x7000;
    V(GUEST_IDTR_BASE) = 0x5000;
    V(GUEST_GDTR_LIMIT) = V(GUEST_IDTR_LIMIT) = 0xffff;
    V(GUEST_DR7) = 0x400;
    V(GUEST_RIP) = V(GUEST_RSP) = 0x8000;
    V(EXCEPTION_BITMAP) = w->mode == PAIR_RUN ? 0xffffffff : 0;
}

static bool word_allowed(const struct pair_world *w, enum caps_word word, uint64_t value)
{
    return (value & ~(uint64_t)nvmx_caps_allowed1(w->caps, word)) == 0 &&
           (~value & nvmx_caps_allowed0(w->caps, word)) == 0;
}

bool pair_words_allowed(const struct pair_world *w, const uint64_t *f)
{
    return word_allowed(w, CAPS_PIN, V(PIN_BASED_CONTROLS)) &&
           word_allowed(w, CAPS_PRIMARY, V(PRIMARY_CONTROLS)) &&
           ((V(PRIMARY_CONTROLS) & PRIMARY_ACTIVATE_SECONDARY) == 0 ||
            word_allowed(w, CAPS_SECONDARY, V(SECONDARY_CONTROLS))) &&
           word_allowed(w, CAPS_EXIT, V(VM_EXIT_CONTROLS)) &&
           word_allowed(w, CAPS_ENTRY, V(VM_ENTRY_CONTROLS));
}

static bool rule_is_about_words(enum check_index rule)
{
    return rule == CHECK_CONTROL_PIN_RESERVED || rule == CHECK_CONTROL_PRIMARY_RESERVED ||
           rule == CHECK_CONTROL_SECONDARY_RESERVED || rule == CHECK_CONTROL_EXIT_RESERVED ||
           rule == CHECK_CONTROL_ENTRY_RESERVED;
}

// One function a side; unused parameters where a side is the base as it is.
#define SIDE(name, base, body)                                                                               \
    static void name(uint64_t *f, const struct pair_world *w)                                                \
    {                                                                                                        \
        make_base(f, w, base);                                                                               \
        (void)w;                                                                                             \
        body;                                                                                                \
    }
#define PAIR(id, base, condition, broken, legal)                                                             \
    SIDE(broken_##id, base, broken)                                                                          \
    SIDE(legal_##id, base, legal)                                                                            \
    static bool has_##id(const struct pair_world *w)                                                         \
    {                                                                                                        \
        (void)w;                                                                                             \
        return (condition);                                                                                  \
    }
#define MORE(id, variant, base, condition, broken, legal) PAIR(id##_##variant, base, condition, broken, legal)
#include "pairs.def"
#undef PAIR
#undef MORE

struct pair {
    enum check_index rule;
    unsigned variant;
    enum base base;
    void (*side[PAIR_SIDE_COUNT])(uint64_t *f, const struct pair_world *w);
    bool (*has)(const struct pair_world *w);
};

static const struct pair pairs[] = {
#define PAIR(id, base, condition, broken, legal) {CHECK_##id, 0, base, {broken_##id, legal_##id}, has_##id},
#define MORE(id, variant, base, condition, broken, legal)                                                    \
    {CHECK_##id, variant, base, {broken_##id##_##variant, legal_##id##_##variant}, has_##id##_##variant},
#include "pairs.def"
#undef PAIR
#undef MORE
};
const unsigned pair_count = sizeof(pairs) / sizeof(pairs[0]);

// A rule without a pair, or with two first ones, does not compile.
void pair_of_every_rule(enum check_index rule);
void pair_of_every_rule(enum check_index rule)
{
    switch (rule) {
#define PAIR(id, base, condition, broken, legal) case CHECK_##id:
#define MORE(id, variant, base, condition, broken, legal)
#include "pairs.def"
#undef PAIR
#undef MORE
    case CHECK_COUNT:
        break;
    }
}

enum check_index pair_rule(unsigned pair)
{
    return pairs[pair].rule;
}

unsigned pair_variant(unsigned pair)
{
    return pairs[pair].variant;
}

bool pair_make(unsigned pair, enum pair_side side, const struct pair_world *world, uint64_t *field)
{
    const struct pair *p = &pairs[pair];
    bool ia32e = p->base == LONG || p->base == COMPATIBILITY;
    if (!p->has(world) || (ia32e && !world->long_mode && p->rule != CHECK_HOST_IA32E_GUEST))
        return false;
    p->side[PAIR_LEGAL](field, world);
    if (!pair_words_allowed(world, field))
        return false;
    if (side == PAIR_LEGAL)
        return true;
    p->side[PAIR_BROKEN](field, world);
    return rule_is_about_words(p->rule) || pair_words_allowed(world, field);
}

const unsigned pair_base_count = BASE_COUNT;

bool pair_make_base(unsigned kind, const struct pair_world *world, uint64_t *field)
{
    make_base(field, world, (enum base)kind);
    if (!world->long_mode && (kind == LONG || kind == COMPATIBILITY))
        return false;
    return pair_words_allowed(world, field);
}
