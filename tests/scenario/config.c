// SPDX-License-Identifier: MIT
// nvmx_vcpu_init refuses what the engine cannot work with, with a sentence, and has then written nothing:
// every page that it was given, and the vcpu, are as they were.
#include "l1_vmx.h"
#include "world_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIRST 0x700000ull // L0's memory that the tests' L0 does not use
#define POOL  (FIRST + 0x10000)
#define PAGES (0x10 + NVMX_EPT02_POOL_PAGES_MIN + 8)

static struct nvmx_caps hardware;

static struct nvmx_vcpu_config good(void)
{
    struct nvmx_vcpu_config config = world_vcpu()->config;
    l0pa_t *page[] = {
        &config.pages.vmcs01,          &config.pages.vmcs02,          &config.pages.io_bitmap_a,
        &config.pages.io_bitmap_b,     &config.pages.msr_bitmap,      &config.pages.shadow_vmcs,
        &config.pages.vmread_bitmap,   &config.pages.vmwrite_bitmap,  &config.pages.shadow02_vmcs,
        &config.pages.vmread02_bitmap, &config.pages.vmwrite02_bitmap};
    for (unsigned i = 0; i < sizeof(page) / sizeof(page[0]); i++)
        *page[i] = l0pa(FIRST + i * PAGE_SIZE);
    config.pages.ept02_pool = l0pa(POOL);
    config.pages.ept02_pool_pages = NVMX_EPT02_POOL_PAGES_MIN;
    hardware = *config.hardware;
    config.hardware = &hardware;
    return config;
}

static void set(uint8_t value)
{
    memset(l0_memory(FIRST), value, PAGES * PAGE_SIZE);
}

static bool is_untouched(const uint8_t *bytes, size_t size, uint8_t value)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

static void must_refuse(const struct nvmx_vcpu_config *config, const char *words)
{
    struct nvmx_vcpu *vcpu = malloc(sizeof(*vcpu));
    memset(vcpu, 0x5a, sizeof(*vcpu));
    set(0xa5);
    const char *problem = nvmx_vcpu_init(vcpu, config);
    bool untouched = is_untouched((const uint8_t *)vcpu, sizeof(*vcpu), 0x5a) &&
                     is_untouched(l0_memory(FIRST), PAGES * PAGE_SIZE, 0xa5);
    free(vcpu);
    if (problem == NULL)
        fail_msg("taken, though: %s", words);
    if (strstr(problem, words) == NULL)
        fail_msg("refused, but not with \"%s\": %s", words, problem);
    assert_true(untouched);
}

#define REFUSES(words, ...)                                                                                  \
    do {                                                                                                     \
        struct nvmx_vcpu_config c = good();                                                                  \
        __VA_ARGS__;                                                                                         \
        must_refuse(&c, words);                                                                              \
    } while (0)

// The whole pool and not a byte behind it.
static void what_is_right_is_taken(void)
{
    struct nvmx_vcpu_config config = good();
    struct nvmx_vcpu *vcpu = malloc(sizeof(*vcpu));
    set(0xa5);
    assert_null(nvmx_vcpu_init(vcpu, &config));
    const uint64_t pool_end = POOL + NVMX_EPT02_POOL_PAGES_MIN * PAGE_SIZE;
    assert_true(is_untouched(l0_memory(pool_end), FIRST + PAGES * PAGE_SIZE - pool_end, 0xa5));
    assert_true(is_untouched(l0_memory(FIRST + 11 * PAGE_SIZE), 5 * PAGE_SIZE, 0xa5));
    config.pages.shadow_vmcs = config.pages.vmread_bitmap = config.pages.vmwrite_bitmap = l0pa(0);
    assert_null(nvmx_vcpu_init(vcpu, &config));
    free(vcpu);
}

static void pages(void)
{
    REFUSES("a page is missing", c.pages.vmcs01 = l0pa(0));
    REFUSES("a page is missing", c.pages.vmcs02 = l0pa(0));
    REFUSES("a page is missing", c.pages.io_bitmap_a = l0pa(0));
    REFUSES("a page is missing", c.pages.io_bitmap_b = l0pa(0));
    REFUSES("a page is missing", c.pages.msr_bitmap = l0pa(0));
    REFUSES("a page is missing", c.pages.ept02_pool = l0pa(0));
    REFUSES("4 KBytes: vmcs01", c.pages.vmcs01.value += 8);
    REFUSES("4 KBytes: vmwrite02_bitmap", c.pages.vmwrite02_bitmap.value += 2048);
    REFUSES("4 KBytes: ept02_pool", c.pages.ept02_pool.value += 64);
    REFUSES("vmread_bitmap and vmwrite_bitmap some", c.pages.shadow_vmcs = l0pa(0));
    REFUSES("vmread_bitmap and vmwrite_bitmap some", c.pages.vmread_bitmap = l0pa(0));
    REFUSES("vmread_bitmap and vmwrite_bitmap some", c.pages.vmread_bitmap = c.pages.shadow_vmcs = l0pa(0));
    REFUSES("vmread02_bitmap and vmwrite02_bitmap some", c.pages.vmwrite02_bitmap = l0pa(0));
    REFUSES("L1 is offered VMCS shadowing",
            c.pages.shadow02_vmcs = c.pages.vmread02_bitmap = c.pages.vmwrite02_bitmap = l0pa(0));
    REFUSES("two pages", c.pages.vmcs02 = c.pages.vmcs01);
    REFUSES("two pages", c.pages.vmwrite02_bitmap = c.pages.msr_bitmap);
    REFUSES("lies in ept02's pool", c.pages.shadow_vmcs.value = POOL);
    REFUSES("lies in ept02's pool",
            c.pages.msr_bitmap.value = POOL + (NVMX_EPT02_POOL_PAGES_MIN - 1) * PAGE_SIZE);
}

static void the_pool_is_too_small(void)
{
    for (uint32_t count = 0; count < NVMX_EPT02_POOL_PAGES_MIN; count++)
        REFUSES("NVMX_EPT02_POOL_PAGES_MIN", c.pages.ept02_pool_pages = count);
}

static void vpids(void)
{
    REFUSES("VPID 0 is L0's", c.policy.vpid01 = 0);
    REFUSES("VPID 0 is L0's", c.policy.vpid02 = 0);
    REFUSES("vpid01 is one of L2's", c.policy.vpid01 = c.policy.vpid02);
    REFUSES("vpid01 is one of L2's",
            c.policy.vpid01 = (uint16_t)(c.policy.vpid02 + c.policy.vpid02_count - 1));
    REFUSES("vpid01 is one of L2's", c.policy.vpid01 = c.policy.vpid02; c.policy.vpid02_count = 0);
    REFUSES("beyond VPID 65535", c.policy.vpid02 = 0xfffe; c.policy.vpid02_count = 3);
    REFUSES("no single-context INVVPID",
            hardware.msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST] &= ~VPID_CAP_SINGLE);
    const uint64_t vpid = (uint64_t)SECONDARY_ENABLE_VPID << 32;
    REFUSES("the processor has none", hardware.msr[MSR_IA32_VMX_PROCBASED_CTLS2 - CAPS_MSR_FIRST] &= ~vpid);
}

static void policy_and_capabilities(void)
{
    REFUSES("MSR bitmap", c.policy.msr_bitmap = l0pa(0));
    REFUSES("MSR bitmap", c.policy.msr_bitmap.value += 16);
    REFUSES("I/O bitmaps", c.policy.io_bitmap_b = l0pa(0));
    REFUSES("I/O bitmaps", c.policy.io_bitmap_a.value += 1);
    REFUSES("ept01", c.policy.ept_pointer = 0x1e);
    REFUSES("32 to 52", c.l1_physical_address_width = 0);
    REFUSES("32 to 52", c.l1_physical_address_width = 53);
    REFUSES("capabilities are missing", c.hardware = NULL);
    REFUSES("capabilities are missing", c.offered = NULL);
    const uint64_t ept = (uint64_t)SECONDARY_ENABLE_EPT << 32;
    REFUSES("enable EPT", hardware.msr[MSR_IA32_VMX_PROCBASED_CTLS2 - CAPS_MSR_FIRST] &= ~ept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NESTED(what_is_right_is_taken),  NESTED(pages), NESTED(the_pool_is_too_small), NESTED(vpids),
        NESTED(policy_and_capabilities),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
