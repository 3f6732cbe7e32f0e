// SPDX-License-Identifier: MIT
// Can the engine work with what L0 gives a vcpu? Decided before anything is written: a page too few, and the
// engine would write to memory that is somebody else's.
#include "engine.h"
#include "ept.h"

#define PHYSICAL_WIDTH_MIN 32u
#define PHYSICAL_WIDTH_MAX 52u

// clang-format off
#define SINGLE_PAGES(X) \
    X(vmcs01) X(vmcs02) X(io_bitmap_a) X(io_bitmap_b) X(msr_bitmap) X(shadow_vmcs) X(vmread_bitmap) \
    X(vmwrite_bitmap) X(shadow02_vmcs) X(vmread02_bitmap) X(vmwrite02_bitmap)
// clang-format on

static bool is_page(l0pa_t page)
{
    return (page.value & (PAGE_SIZE - 1)) == 0;
}

// Three that come together. 0: all are there; 3: none is.
static unsigned absent(l0pa_t a, l0pa_t b, l0pa_t c)
{
    return (unsigned)(a.value == 0) + (unsigned)(b.value == 0) + (unsigned)(c.value == 0);
}

// Each page is the engine's alone, and none is one of the pool's.
static const char *overlap_problem(const struct nvmx_vcpu_pages *pages)
{
#define X(name) pages->name.value,
    const uint64_t single[] = {SINGLE_PAGES(X)};
#undef X
    const unsigned count = sizeof single / sizeof single[0];
    uint64_t pool_size = (uint64_t)pages->ept02_pool_pages * PAGE_SIZE;
    for (unsigned i = 0; i < count; i++) {
        if (single[i] == 0)
            continue;
        if (single[i] - pages->ept02_pool.value < pool_size)
            return "a page of the vcpu's lies in ept02's pool";
        for (unsigned k = 0; k < i; k++)
            if (single[i] == single[k])
                return "two pages of the vcpu's are one page";
    }
    return NULL;
}

static const char *pages_problem(const struct nvmx_vcpu_config *config)
{
    const struct nvmx_vcpu_pages *pages = &config->pages;
    if (pages->vmcs01.value == 0 || pages->vmcs02.value == 0 || pages->io_bitmap_a.value == 0 ||
        pages->io_bitmap_b.value == 0 || pages->msr_bitmap.value == 0 || pages->ept02_pool.value == 0)
        return "a page is missing that every vcpu needs (a VMCS, a bitmap or ept02's pool)";
#define X(name)                                                                                              \
    if (!is_page(pages->name))                                                                               \
        return "a page of the vcpu's is not aligned to 4 KBytes: " #name;
    SINGLE_PAGES(X)
    X(ept02_pool)
#undef X
    unsigned shadow = absent(pages->shadow_vmcs, pages->vmread_bitmap, pages->vmwrite_bitmap);
    unsigned shadow02 = absent(pages->shadow02_vmcs, pages->vmread02_bitmap, pages->vmwrite02_bitmap);
    bool offered = (nvmx_caps_allowed1(config->offered, CAPS_SECONDARY) & SECONDARY_VMCS_SHADOWING) != 0;
    if (shadow % 3 != 0)
        return "of shadow_vmcs, vmread_bitmap and vmwrite_bitmap some are there and some not";
    if (shadow02 % 3 != 0)
        return "of shadow02_vmcs, vmread02_bitmap and vmwrite02_bitmap some are there and some not";
    if (offered && shadow02 != 0)
        return "L1 is offered VMCS shadowing, and there are no pages for it (shadow02_vmcs)";
    if (pages->ept02_pool_pages < NVMX_EPT02_POOL_PAGES_MIN)
        return "ept02's pool is too small (NVMX_EPT02_POOL_PAGES_MIN)";
    return overlap_problem(pages);
}

static const char *vpid_problem(const struct nvmx_vcpu_config *config)
{
    const struct nvmx_l0_policy *policy = &config->policy;
    bool has = (nvmx_caps_allowed1(config->hardware, CAPS_SECONDARY) & SECONDARY_ENABLE_VPID) != 0;
    uint32_t count = policy->vpid02_count == 0 ? 1 : policy->vpid02_count;
    if (!has)
        return policy->vpid01 != 0 || policy->vpid02 != 0 ? "there are VPIDs, and the processor has none"
                                                          : NULL;
    const uint64_t needed = VPID_CAP_INVVPID | VPID_CAP_SINGLE;
    if ((config->hardware->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] & needed) != needed)
        return "the processor has VPID and no single-context INVVPID";
    if (policy->vpid01 == 0 || policy->vpid02 == 0)
        return "VPID 0 is L0's own: vpid01 and vpid02 are not 0 on a processor that has VPID";
    if (policy->vpid02 + count - 1 > 0xffff)
        return "vpid02_count VPIDs from vpid02 on end beyond VPID 65535";
    if (policy->vpid01 >= policy->vpid02 && policy->vpid01 < policy->vpid02 + count)
        return "vpid01 is one of L2's VPIDs (vpid02_count of them from vpid02 on)";
    return NULL;
}

static const char *policy_problem(const struct nvmx_vcpu_config *config)
{
    const struct nvmx_l0_policy *policy = &config->policy;
    if (policy->msr_bitmap.value == 0 || !is_page(policy->msr_bitmap))
        return "L0's MSR bitmap is no page";
    if ((policy->primary & PRIMARY_USE_IO_BITMAPS) != 0 &&
        (policy->io_bitmap_a.value == 0 || policy->io_bitmap_b.value == 0 || !is_page(policy->io_bitmap_a) ||
         !is_page(policy->io_bitmap_b)))
        return "L0's I/O bitmaps are no pages";
    if ((policy->ept_pointer & EPT_ADDRESS) == 0)
        return "there is no ept01 (ept_pointer)";
    return vpid_problem(config);
}

const char *config_problem(const struct nvmx_vcpu_config *config)
{
    if (config->hardware == NULL || config->offered == NULL)
        return "the capabilities are missing: of the processor's, or what L1 is offered";
    const char *problem = nvmx_caps_missing_for_l0(config->hardware);
    if (problem == NULL)
        problem = pages_problem(config);
    if (problem == NULL)
        problem = policy_problem(config);
    if (problem == NULL && (config->l1_physical_address_width < PHYSICAL_WIDTH_MIN ||
                            config->l1_physical_address_width > PHYSICAL_WIDTH_MAX))
        problem = "L1's physical addresses have no width that a processor could have (32 to 52 bits)";
    return problem;
}
