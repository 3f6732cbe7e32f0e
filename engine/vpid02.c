// SPDX-License-Identifier: MIT
// vpid02: the tags under which the processor caches L2's translations. Each tag of the vcpu's stands for one
// vpid12 at a time, so that an L1 that alternates VPIDs loses nothing; the least recently used one goes. A
// tag is flushed when it begins to stand for another vpid12, and on its first use after the vcpu came to a
// logical processor, which may hold what it cached under this tag at another time.
// Manual: Virtual Processor Identifiers (VPIDs); Operations that Invalidate Cached Mappings.
#include "engine.h"

static uint16_t tag_vpid(const struct nvmx_vcpu *vcpu, uint32_t tag)
{
    return (uint16_t)(vcpu->config.policy.vpid02 + tag);
}

static void tag_flush(struct nvmx_vcpu *vcpu, uint32_t tag)
{
    vcpu->vpid02.tag[tag].stale = false;
    vcpu->vpid02.flush_count++;
    hw_invvpid(vcpu->cpu, INVVPID_SINGLE_CONTEXT, tag_vpid(vcpu, tag), 0);
}

void vpid02_init(struct nvmx_vcpu *vcpu)
{
    const struct nvmx_l0_policy *policy = &vcpu->config.policy;
    struct vpid02 *vpid02 = &vcpu->vpid02;
    uint32_t count = policy->vpid02_count == 0 ? 1 : policy->vpid02_count;
    if (policy->vpid02 == 0)
        count = 0;
    *vpid02 = (struct vpid02){.count = count < VPID02_LIMIT ? count : VPID02_LIMIT};
    for (uint32_t i = 0; i < VPID02_LIMIT; i++)
        vpid02->tag[i].stale = true;
}

// The tag that stands for vpid12; count: none does.
static uint32_t tag_find(const struct vpid02 *vpid02, uint16_t vpid12)
{
    for (uint32_t i = 0; i < vpid02->count; i++)
        if (vpid02->tag[i].used && vpid02->tag[i].vpid12 == vpid12)
            return i;
    return vpid02->count;
}

static uint32_t tag_take(struct vpid02 *vpid02, uint16_t vpid12)
{
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < vpid02->count; i++)
        if (vpid02->tag[i].last_used < vpid02->tag[oldest].last_used)
            oldest = i;
    vpid02->tag[oldest] = (struct vpid02_tag){.vpid12 = vpid12, .used = true, .stale = true};
    return oldest;
}

static void tag_select(struct nvmx_vcpu *vcpu, uint16_t vpid12)
{
    struct vpid02 *vpid02 = &vcpu->vpid02;
    vpid02->vpid12 = vpid12;
    if (vpid02->count == 0)
        return;
    uint32_t i = tag_find(vpid02, vpid12);
    if (i == vpid02->count)
        i = tag_take(vpid02, vpid12);
    vpid02->tag[i].last_used = ++vpid02->clock;
    vpid02->current = i;
    vpid02->vpid = tag_vpid(vcpu, i);
}

uint16_t vpid02_use(struct nvmx_vcpu *vcpu, uint16_t vpid12)
{
    struct vpid02 *vpid02 = &vcpu->vpid02;
    if (vpid02->vpid12 != vpid12 || vpid02->vpid == 0)
        tag_select(vcpu, vpid12);
    // vpid12 0: L1 uses no VPID, and every entry drops what L2 cached
    if (vpid02->vpid != 0 && (vpid12 == 0 || vpid02->tag[vpid02->current].stale))
        tag_flush(vcpu, vpid02->current);
    return vpid02->vpid;
}

void vpid02_load(struct nvmx_vcpu *vcpu)
{
    struct vpid02 *vpid02 = &vcpu->vpid02;
    for (uint32_t i = 0; i < vpid02->count; i++)
        vpid02->tag[i].stale = true;
    if (vpid02->count != 0 && vcpu->in_l2)
        tag_flush(vcpu, vpid02->current);
}

void vpid02_invalidate(struct nvmx_vcpu *vcpu, enum hw_invvpid_type type, uint16_t vpid12, uint64_t linear)
{
    struct vpid02 *vpid02 = &vcpu->vpid02;
    if (type == INVVPID_ALL_CONTEXTS) {
        for (uint32_t i = 0; i < vpid02->count; i++)
            vpid02->tag[i].stale = true;
        return;
    }
    uint32_t i = tag_find(vpid02, vpid12);
    if (i == vpid02->count || vpid02->tag[i].stale) // nothing is cached, or it goes before it is used
        return;
    if (type == INVVPID_SINGLE_CONTEXT)
        vpid02->tag[i].stale = true;
    else
        hw_invvpid(vcpu->cpu, type, tag_vpid(vcpu, i), linear);
}
