// SPDX-License-Identifier: MIT
// Cached translations, kept as long as the manual permits: nothing but an invalidation that the manual
// demands takes one away, so that an invalidation that software forgot shows. (The TLB is large, and a full
// one gives up an entry at random.)
// Manual: Caching Translation Information; Invalidating Cached Translation Information.
//
//   linear mappings          tagged by VPID and PCID           no EPT in use
//   guest-physical mappings  tagged by EPTRTA
//   combined mappings        tagged by VPID, PCID and EPTRTA
//   EPT paging structures    (where the last table of a walk is) tagged by EPTRTA
#include "model.h"
#include <string.h>

#define PROBES 16 // an entry is at most so far from its place

static unsigned place(enum mapping_kind kind, uint64_t page)
{
    uint64_t hash = ((page >> PAGE_SHIFT) * 4 + kind) * 0x9e3779b97f4a7c15ull;
    return (unsigned)(hash >> 40) % TLB_SIZE;
}

uint16_t tlb_vpid(const struct hw_cpu *cpu)
{
    return cpu->vmx == VMX_NON_ROOT ? cpu->c.vpid : 0;
}

uint64_t tlb_eptrta(const struct hw_cpu *cpu)
{
    return cpu->vmx == VMX_NON_ROOT ? cpu->c.eptp & PAGE_MASK : 0;
}

static bool is_of_linear_address(enum mapping_kind kind)
{
    return kind == MAPPING_LINEAR || kind == MAPPING_COMBINED;
}

static uint16_t current_pcid(const struct hw_cpu *cpu)
{
    return cpu->r.cr4 & CR4_PCIDE ? cpu->r.cr3 & 0xfff : 0;
}

struct mapping *tlb_find(struct hw_cpu *cpu, enum mapping_kind kind, uint64_t page)
{
    uint16_t vpid = tlb_vpid(cpu), pcid = current_pcid(cpu);
    uint64_t eptrta = tlb_eptrta(cpu);
    unsigned at = place(kind, page);
    for (unsigned probe = 0; probe < PROBES; probe++, at = (at + 1) % TLB_SIZE) {
        struct mapping *m = &cpu->tlb.mapping[at];
        if (!m->valid || m->kind != kind || m->page != page)
            continue;
        if (kind != MAPPING_LINEAR && m->eptrta != eptrta)
            continue;
        if (is_of_linear_address(kind) && (m->vpid != vpid || (!m->global && m->pcid != pcid)))
            continue;
        return m;
    }
    return NULL;
}

void tlb_insert(struct hw_cpu *cpu, const struct mapping *mapping)
{
    struct mapping *to = tlb_find(cpu, (enum mapping_kind)mapping->kind, mapping->page);
    unsigned first = place((enum mapping_kind)mapping->kind, mapping->page);
    for (unsigned probe = 0; to == NULL && probe < PROBES; probe++)
        if (!cpu->tlb.mapping[(first + probe) % TLB_SIZE].valid)
            to = &cpu->tlb.mapping[(first + probe) % TLB_SIZE];
    if (to == NULL)
        to = &cpu->tlb.mapping[(first + machine_random(cpu->machine) % PROBES) % TLB_SIZE];
    if (!to->valid)
        cpu->tlb.used++;
    *to = *mapping;
    to->valid = true;
    to->vpid = tlb_vpid(cpu);
    to->pcid = current_pcid(cpu);
    to->eptrta = tlb_eptrta(cpu);
}

static void drop(struct hw_cpu *cpu, struct mapping *m)
{
    m->valid = false;
    cpu->tlb.used--;
    cpu->fetch_page = NO_ADDRESS;
}

void tlb_flush_linear(struct hw_cpu *cpu, uint16_t vpid, int pcid, bool globals)
{
    if (cpu->tlb.used == 0)
        return;
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        struct mapping *m = &cpu->tlb.mapping[i];
        if (m->valid && is_of_linear_address((enum mapping_kind)m->kind) && m->vpid == vpid &&
            (pcid < 0 || m->pcid == pcid) && (globals || !m->global))
            drop(cpu, m);
    }
}

void tlb_flush_linear_page(struct hw_cpu *cpu, uint16_t vpid, uint64_t page)
{
    for (unsigned i = 0; cpu->tlb.used > 0 && i < TLB_SIZE; i++) {
        struct mapping *m = &cpu->tlb.mapping[i];
        if (m->valid && is_of_linear_address((enum mapping_kind)m->kind) && m->vpid == vpid &&
            m->page == page)
            drop(cpu, m);
    }
}

void tlb_flush_guest_physical_page(struct hw_cpu *cpu, uint64_t eptrta, uint64_t page)
{
    for (unsigned i = 0; cpu->tlb.used > 0 && i < TLB_SIZE; i++) {
        struct mapping *m = &cpu->tlb.mapping[i];
        if (m->valid && m->eptrta == eptrta &&
            ((m->kind == MAPPING_GUEST_PHYSICAL && m->page == page) ||
             (m->kind == MAPPING_EPT_TABLE && m->page == (page & ~0x1fffffull)) ||
             (m->kind == MAPPING_COMBINED && m->guest_physical == page)))
            drop(cpu, m);
    }
}

void tlb_flush_ept(struct hw_cpu *cpu, uint64_t eptrta)
{
    for (unsigned i = 0; cpu->tlb.used > 0 && i < TLB_SIZE; i++) {
        struct mapping *m = &cpu->tlb.mapping[i];
        if (m->valid && m->kind != MAPPING_LINEAR && (eptrta == NO_ADDRESS || m->eptrta == eptrta))
            drop(cpu, m);
    }
}

void tlb_flush_vpids(struct hw_cpu *cpu)
{
    for (unsigned i = 0; cpu->tlb.used > 0 && i < TLB_SIZE; i++) {
        struct mapping *m = &cpu->tlb.mapping[i];
        if (m->valid && is_of_linear_address((enum mapping_kind)m->kind) && m->vpid != 0)
            drop(cpu, m);
    }
}

void tlb_flush_all(struct hw_cpu *cpu)
{
    memset(&cpu->tlb, 0, sizeof(cpu->tlb));
    cpu->fetch_page = NO_ADDRESS;
}
