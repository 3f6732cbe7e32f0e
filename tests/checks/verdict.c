// SPDX-License-Identifier: MIT
#include "verdict.h"
#include "world.h"
#include <model.h>
#include <string.h>

#define SCRATCH     0x300000
#define VMCS_REGION 0x200000

struct judged_processor judged_rich = {.long_mode = true}, judged_rich_32,
                        judged_sparse = {.long_mode = true}, judged_no_ept = {.long_mode = true},
                        judged_no_unrestricted_guest = {.long_mode = true},
                        judged_future = {.long_mode = true}, judged_offered = {.long_mode = true};

static struct machine *machine;
static struct hw_cpu *cpu;
static struct active_vmcs current = {.region = VMCS_REGION};
static uint64_t host_state[F_COUNT];
static uint8_t scratch[PAIR_SCRATCH_SIZE];
static struct nvmx_vcpu memory_owner; // all that the table's rules ask it for is memory, and the current VMCS

const char *verdict_name(enum outcome_kind outcome)
{
    static const char *const names[] = {"it enters", "VMfail 7", "VMfail 8", "exit 33"};
    return names[outcome];
}

enum outcome_kind verdict_of_stage(enum check_stage stage)
{
    return stage == STAGE_HOST                                      ? FAILS_HOST
           : stage == STAGE_CONTROLS || stage == STAGE_CONTROLS_HOT ? FAILS_CONTROLS
                                                                    : FAILS_GUEST;
}

static void processors_define(void)
{
    judged_rich.processor = judged_rich_32.processor = judged_future.processor = processor_rich;
    judged_sparse.processor = processor_sparse;
    judged_no_ept.processor = processor_no_ept;
    judged_no_unrestricted_guest.processor = processor_no_unrestricted_guest;
    uint64_t *future = judged_future.processor.vmx.msr;
    future[MSR_IA32_VMX_CR4_FIXED1 - CAPS_MSR_FIRST] |= CR4_CET;
    future[MSR_IA32_VMX_MISC - CAPS_MSR_FIRST] &= ~MISC_INJECT_LENGTH_0;
    judged_future.processor.physical_address_width = 52;
    judged_future.processor.vmx.features = FEATURE_ALL;
    judged_future.processor.vmx.perf_global_ctrl = 0xf000000ff;
    judged_offered.processor = processor_rich;
    nvmx_caps_offer(&processor_rich.vmx, &judged_offered.processor.vmx);
}

static void host_state_define(bool long_mode)
{
    memset(host_state, 0, sizeof(host_state));
    host_state[F_HOST_CR0] = CR0_PG | CR0_PE | CR0_NE | CR0_ET;
    host_state[F_HOST_CR3] = 0x100000;
    host_state[F_HOST_CR4] = CR4_VMXE | (long_mode ? CR4_PAE : 0);
    host_state[F_HOST_IA32_EFER] = long_mode ? EFER_LMA | EFER_LME : 0;
    host_state[F_HOST_IA32_PAT] = 0x0007040600070406;
    for (unsigned i = F_HOST_ES_SELECTOR; i <= F_HOST_GS_SELECTOR; i++)
        host_state[i] = i == F_HOST_CS_SELECTOR ? 0x08 : 0x10;
    host_state[F_HOST_TR_SELECTOR] = 0x18;
    host_state[F_HOST_RIP] = host_state[F_HOST_RSP] = 0x400000;
}

void verdict_begin(const struct judged_processor *p)
{
    processors_define();
    world_begin(&(struct world_config){.processor = &processor_rich}); // whose memory the table's rules read
    machine = machine_create(&(struct machine_config){
        .processor = &p->processor, .cpu_count = 1, .memory_size = 0x400000, .root = ROOT_IS_L1});
    cpu = machine_cpu(machine, 0);
    cpu->r.efer = p->long_mode ? EFER_LMA | EFER_LME : 0;
    cpu->r.cr0 = CR0_PG | CR0_PE | CR0_NE | CR0_ET;
    cpu->current = &current;
    cpu->current_pointer = VMCS_REGION;
    memory_owner.vmcs12_pointer = l1pa(VMCS_REGION);
    host_state_define(p->long_mode);
}

void verdict_end(void)
{
    cpu->current = NULL;
    machine_destroy(machine);
    world_abandon();
}

struct pair_world verdict_world(const struct judged_processor *p)
{
    return (struct pair_world){
        .caps = &p->processor.vmx,
        .physical_width = p->processor.physical_address_width,
        .long_mode = p->long_mode,
        .mode = PAIR_DIRECT,
        .scratch = SCRATCH,
        .vmcs = VMCS_REGION,
        .memory = scratch,
        .host = host_state,
    };
}

static void memory_place(void *at_vmcs, void *at_scratch, const struct pair_world *world)
{
    uint32_t revision = (uint32_t)world->caps->msr[0] & 0x7fffffff;
    memcpy(at_vmcs, &revision, sizeof(revision));
    memcpy(at_scratch, scratch, sizeof(scratch));
}

struct verdict verdict_of_table(const struct pair_world *world, const uint64_t *field)
{
    uint64_t pdpte[4];
    memory_place(l1_memory(VMCS_REGION), l1_memory(SCRATCH), world);
    if (!port_l1_read(&memory_owner, l1pa(field[F_GUEST_CR3] & 0xffffffe0), pdpte, sizeof(pdpte)))
        memset(pdpte, 0xff, sizeof(pdpte));
    const struct check_input input = {
        .field = field,
        .caps = world->caps,
        .physical_address_width = world->physical_width,
        .long_mode = world->long_mode,
        .vcpu = &memory_owner,
        .pdpte = pdpte,
    };
    struct check_report report = {0};
    struct verdict verdict = {.outcome = ENTERS};
    for (unsigned stage = 0; stage < STAGE_COUNT; stage++) {
        uint32_t before = report.count;
        check_stage(&input, (enum check_stage)stage, &report);
        if (before == 0 && report.count != 0)
            verdict.outcome = verdict_of_stage((enum check_stage)stage);
    }
    verdict.broken_count = report.count;
    for (unsigned i = 0; i < report.count && i < CHECK_REPORT_MAX; i++)
        verdict.broken[i] = (enum check_index)report.broken[i].index;
    if (report.count != 0) {
        verdict.first = verdict.broken[0];
        verdict.why = check_rules[verdict.first].id;
        verdict.qualification = check_rules[verdict.first].qualification;
        verdict.legal = report.broken[0].legal;
    }
    return verdict;
}

struct verdict verdict_of_model(const struct pair_world *world, const uint64_t *field)
{
    memcpy(machine_memory(machine, SCRATCH, sizeof(scratch)), scratch, sizeof(scratch));
    (void)world;
    for (unsigned i = 0; i < F_COUNT; i++)
        vmcs_set(cpu, (enum vmcs_field)i, field[i]);
    struct verdict verdict = {.outcome = ENTERS};
    controls_read(cpu);
    if ((verdict.why = entry_check_controls(cpu)) != NULL)
        verdict.outcome = FAILS_CONTROLS;
    else if ((verdict.why = entry_check_host(cpu)) != NULL)
        verdict.outcome = FAILS_HOST;
    else if ((verdict.why = entry_check_guest(cpu, &verdict.qualification)) != NULL)
        verdict.outcome = FAILS_GUEST;
    return verdict;
}
