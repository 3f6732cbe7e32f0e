// SPDX-License-Identifier: MIT
// L1's MSR and I/O bitmaps, without merging pages at every entry. vmcs02's bitmaps start with every bit set:
// each access exits. At an exit that L1's bitmap does not ask for, and L0's neither, the bit is cleared: L2
// has learnt it. Before every entry the few words that hold cleared bits are read again from L1's bitmap, and
// what L1 has closed since is closed. What is open while L2 runs was 0 in L1's bitmap at that very entry.
// Manual: MSR-Bitmap Address; I/O-Bitmap Addresses; Software Access to Related Structures.
#include "engine.h"

#define MSR_X2APIC_FIRST    0x800u
#define MSR_X2APIC_TPR      0x808u
#define MSR_X2APIC_EOI      0x80bu
#define MSR_X2APIC_SELF_IPI 0x83fu
#define MSR_X2APIC_LAST     0x8ffu

void bitmaps_init(struct nvmx_vcpu *vcpu)
{
    page_fill(vcpu->config.pages.msr_bitmap, ~0ull);
    page_fill(vcpu->config.pages.io_bitmap_a, ~0ull);
    page_fill(vcpu->config.pages.io_bitmap_b, ~0ull);
}

static uint64_t *msr_word(const struct nvmx_vcpu *vcpu, uint32_t word)
{
    return (uint64_t *)port_l0_map(vcpu->config.pages.msr_bitmap) + word;
}

static uint64_t *io_word(const struct nvmx_vcpu *vcpu, uint32_t word)
{
    const struct nvmx_vcpu_pages *pages = &vcpu->config.pages;
    return (uint64_t *)port_l0_map(word < 512 ? pages->io_bitmap_a : pages->io_bitmap_b) + word % 512;
}

static void learned_close_all(struct nvmx_vcpu *vcpu, struct learned_bits *learned,
                              uint64_t *(*at)(const struct nvmx_vcpu *, uint32_t))
{
    for (uint32_t i = 0; i < learned->count; i++)
        *at(vcpu, learned->entry[i].word) = ~0ull;
    learned->count = learned->next_victim = 0;
}

void bitmaps_reset(struct nvmx_vcpu *vcpu)
{
    learned_close_all(vcpu, &vcpu->learned_msr, msr_word);
    learned_close_all(vcpu, &vcpu->learned_io, io_word);
}

static void learned_open(struct nvmx_vcpu *vcpu, struct learned_bits *learned, uint32_t word, uint64_t bits,
                         uint64_t *(*at)(const struct nvmx_vcpu *, uint32_t))
{
    uint32_t i = 0;
    while (i < learned->count && learned->entry[i].word != word)
        i++;
    if (i == learned->count) {
        if (i == LEARNED_WORD_COUNT) { // forget the oldest
            i = learned->next_victim;
            learned->next_victim = (i + 1) % LEARNED_WORD_COUNT;
            *at(vcpu, learned->entry[i].word) = ~0ull;
        } else {
            learned->count++;
        }
        learned->entry[i].word = (uint16_t)word;
        learned->entry[i].open = 0;
    }
    learned->entry[i].open |= bits;
    *at(vcpu, word) = ~learned->entry[i].open;
}

// L1's word of its MSR bitmap; all ones where L1's bitmap is not RAM.
static uint64_t l1_msr_word(struct nvmx_vcpu *vcpu, uint32_t word)
{
    uint64_t value;
    l1pa_t at = l1pa(vmcs12_get(vcpu, F_MSR_BITMAP) + word * sizeof value);
    return port_l1_read(vcpu, at, &value, sizeof value) ? value : ~0ull;
}

static uint64_t l1_io_word(struct nvmx_vcpu *vcpu, uint32_t word)
{
    uint32_t primary = vmcs12_primary(vcpu);
    if ((primary & PRIMARY_USE_IO_BITMAPS) == 0)
        return (primary & PRIMARY_UNCONDITIONAL_IO_EXITING) != 0 ? ~0ull : 0;
    uint64_t value;
    uint64_t base = vmcs12_get(vcpu, word < 512 ? F_IO_BITMAP_A : F_IO_BITMAP_B);
    l1pa_t at = l1pa(base + word % 512 * sizeof value);
    return port_l1_read(vcpu, at, &value, sizeof value) ? value : ~0ull;
}

// The x2APIC MSRs that the processor takes from, or puts into, L1's virtual-APIC page with these controls of
// vmcs12: L2 does not reach L0's local APIC through them. Bits of a word of the MSR bitmap. Manual:
// Virtualizing MSR-Based APIC Accesses.
static uint64_t virtualized(const struct nvmx_vcpu *vcpu, uint32_t word)
{
    const uint32_t words_of_writes = 16384 / 64;
    uint32_t secondary = vmcs12_secondary(vcpu);
    uint32_t first = word % words_of_writes * 64; // MSR of the word's first bit
    if ((secondary & SECONDARY_VIRTUALIZE_X2APIC_MODE) == 0 || first < MSR_X2APIC_FIRST ||
        first > MSR_X2APIC_LAST)
        return 0;
    if (word < words_of_writes && (secondary & SECONDARY_APIC_REGISTER_VIRTUALIZATION) != 0)
        return ~0ull;
    if (first != MSR_X2APIC_FIRST)
        return 0;
    uint64_t bits = 1ull << (MSR_X2APIC_TPR - MSR_X2APIC_FIRST);
    if (word >= words_of_writes && (secondary & SECONDARY_VIRTUAL_INTERRUPT_DELIVERY) != 0)
        bits |= 1ull << (MSR_X2APIC_EOI - MSR_X2APIC_FIRST) | 1ull
                                                                  << (MSR_X2APIC_SELF_IPI - MSR_X2APIC_FIRST);
    return bits;
}

// What L0 keeps from L2 in this word of the MSR bitmap.
static uint64_t l0_msr_word(const struct nvmx_vcpu *vcpu, uint32_t word)
{
    const uint64_t *bitmap01 = port_l0_map(vcpu->config.policy.msr_bitmap);
    return bitmap01[word] & ~virtualized(vcpu, word);
}

// What L1 has closed since it was learnt, and what has ceased to be virtualized: a control that goes away
// would leave L2 with the processor's own local APIC.
void bitmaps_before_entry(struct nvmx_vcpu *vcpu)
{
    struct learned_bits *msr = &vcpu->learned_msr, *io = &vcpu->learned_io;
    for (uint32_t i = 0; i < msr->count; i++) {
        uint32_t word = msr->entry[i].word;
        uint64_t closed = (l1_msr_word(vcpu, word) | l0_msr_word(vcpu, word)) & msr->entry[i].open;
        if (closed != 0) {
            msr->entry[i].open &= ~closed;
            *msr_word(vcpu, word) |= closed;
        }
    }
    for (uint32_t i = 0; i < io->count; i++) {
        uint64_t closed = l1_io_word(vcpu, io->entry[i].word) & io->entry[i].open;
        if (closed != 0) {
            io->entry[i].open &= ~closed;
            *io_word(vcpu, io->entry[i].word) |= closed;
        }
    }
}

// Bit of the 4-KByte MSR bitmap: read-low, read-high, write-low, write-high. false: the MSR has none.
static bool msr_bit(uint32_t msr, bool write, uint32_t *bit)
{
    if (msr <= 0x1fff)
        *bit = msr;
    else if (msr >= 0xc0000000 && msr <= 0xc0001fff)
        *bit = 8192 + (msr - 0xc0000000);
    else
        return false;
    *bit += write ? 16384 : 0;
    return true;
}

bool bitmaps_l1_wants_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write)
{
    uint32_t bit;
    if ((vmcs12_primary(vcpu) & PRIMARY_USE_MSR_BITMAPS) == 0 || !msr_bit(msr, write, &bit))
        return true;
    return (l1_msr_word(vcpu, bit / 64) >> (bit % 64) & 1) != 0;
}

bool bitmaps_l0_intercepts_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write)
{
    uint32_t bit;
    if (!msr_bit(msr, write, &bit))
        return true;
    const uint64_t *bitmap01 = port_l0_map(vcpu->config.policy.msr_bitmap);
    return (bitmap01[bit / 64] >> (bit % 64) & 1) != 0;
}

bool bitmaps_open_msr(struct nvmx_vcpu *vcpu, uint32_t msr, bool write)
{
    uint32_t bit;
    if (!msr_bit(msr, write, &bit) || (l0_msr_word(vcpu, bit / 64) >> (bit % 64) & 1) != 0)
        return false;
    learned_open(vcpu, &vcpu->learned_msr, bit / 64, 1ull << (bit % 64), msr_word);
    return true;
}

bool bitmaps_l1_wants_io(struct nvmx_vcpu *vcpu, uint16_t port, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        uint32_t p = (uint32_t)port + i;
        bool wraps = p > 0xffff;
        // With bitmaps, an access that wraps around the port space always exits.
        if (wraps && (vmcs12_primary(vcpu) & PRIMARY_USE_IO_BITMAPS) != 0)
            return true;
        p &= 0xffff;
        if ((l1_io_word(vcpu, p / 64) >> (p % 64) & 1) != 0)
            return true;
    }
    return false;
}

// Without EPT, L2's memory is L1's: it may hold the bitmap, and L2 may write to it without an exit. Nothing
// is learnt then.
bool bitmaps_io_is_in_reach_of_l2(const struct nvmx_vcpu *vcpu)
{
    return (vmcs12_primary(vcpu) & PRIMARY_USE_IO_BITMAPS) != 0 &&
           (vmcs12_secondary(vcpu) & SECONDARY_ENABLE_EPT) == 0;
}

static bool l0_intercepts_port(const struct nvmx_vcpu *vcpu, uint32_t port)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    if ((policy->primary & PRIMARY_USE_IO_BITMAPS) == 0)
        return false;
    const uint64_t *bitmap01 = port_l0_map(port < 0x8000 ? policy->io_bitmap_a : policy->io_bitmap_b);
    return (bitmap01[port % 0x8000 / 64] >> (port % 64) & 1) != 0;
}

bool bitmaps_open_io(struct nvmx_vcpu *vcpu, uint16_t port, uint32_t size)
{
    if ((uint32_t)port + size > 0x10000)
        return false;
    for (uint32_t i = 0; i < size; i++)
        if (l0_intercepts_port(vcpu, port + i))
            return false;
    for (uint32_t i = 0; i < size; i++)
        learned_open(vcpu, &vcpu->learned_io, (port + i) / 64u, 1ull << ((port + i) % 64), io_word);
    return true;
}
