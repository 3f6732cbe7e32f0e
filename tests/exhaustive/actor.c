// SPDX-License-Identifier: MIT
// The operations, carried out: L1's and L2's as instructions on the model, under the engine and the tests'
// L0; and what must hold of engine and processors between any two VM entries.
#include "life.h"
#include <stdio.h>
#include <string.h>

#define L2_CODE_A   0x200000u // linear addresses of L2, each a live range of its own
#define L2_CODE_B   0x201000u
#define IPI_VECTOR  0xf0
#define HANDLER_UD  (L1_PADS + 16 * VECTOR_UD)
#define EXIT_PAD    (L1_PADS + 0x1000)
#define VALUE_COUNT 4
#define ENTRY_LIMIT 1000

static struct registers start; // of L1
static struct {
    struct op op[2];
    unsigned count, next;
} script; // what the guest that runs executes, before L0 interrupts it
static char sentence[400];

static const uint32_t value_field[VALUE_COUNT] = {VMCS_GUEST_GS_BASE, VMCS_GUEST_RSP, VMCS_TSC_OFFSET,
                                                  VMCS_HOST_FS_BASE};
static const uint64_t value_of[VALUE_COUNT][2] = {
    {0x1000, 0x2000}, {0x9000, 0x8f00}, {0, 0x5000}, {0x1111000, 0x3333000}};

uint64_t fs_base_value(uint8_t which)
{
    return which ? 0x77000 : 0x66000;
}

static struct virtual_processor *self(void)
{
    return &world->processor[0];
}

static uint64_t region(int which)
{
    return which ? VMCS_B : VMCS_A;
}

// A guest wants an instruction: the next one of the script, and then L0 wants the processor.
static void on_wait(struct hw_cpu *cpu, enum wait_reason reason)
{
    if (reason != WAIT_LIVE)
        rule_broken(cpu, "a guest is idle, or ran away");
    if (script.next == script.count) {
        cpu_interrupt(cpu, IPI_VECTOR);
        return;
    }
    struct machine *machine = world->machine;
    for (unsigned i = 0; i < machine->live_count; i++)
        if (cpu->r.rip >= machine->live[i].base && cpu->r.rip < machine->live[i].end) {
            machine->live[i].op = script.op[script.next++];
            machine->live[i].at = cpu->r.rip;
            machine->live[i].armed = true;
            return;
        }
    rule_broken(cpu, "a guest is at %#llx", (unsigned long long)cpu->r.rip);
}

static void disarm(void)
{
    for (unsigned i = 0; i < world->machine->live_count; i++)
        world->machine->live[i].armed = false;
}

static bool guest_is_at(uint64_t rip)
{
    return nvmx_read(self()->vcpu, F_GUEST_RIP) == rip;
}

// Runs the guest until L0 has the processor again: it interrupted the guest behind the script, or an entry to
// L2 succeeded that has not happened yet.
static void run_script(void)
{
    struct nvmx_vcpu *vcpu = self()->vcpu;
    bool pending = vcpu->entry_pending;
    unsigned entries = 0;
    do {
        if (++entries > ENTRY_LIMIT)
            rule_broken(self()->cpu, "a guest makes no progress; its last exit: %s",
                        nvmx_exit_name(vcpu->exit.reason & EXIT_REASON_BASIC_MASK));
        l0_step(self());
        if (vcpu->entry_pending && !pending)
            break;
        pending = false;
    } while (script.next < script.count || (vcpu->exit.reason & 0xffff) != EXIT_EXTERNAL_INTERRUPT);
    disarm();
}

static void set_script(struct op first, struct op second, unsigned count)
{
    script.op[0] = first;
    script.op[1] = second;
    script.count = count;
    script.next = 0;
}

// L1's next instruction is always at the same place, and its registers hold the same.
static void settle_l1(void)
{
    struct nvmx_vcpu *vcpu = self()->vcpu;
    if (vcpu->in_l2)
        return;
    nvmx_write(vcpu, F_GUEST_RIP, L1_CODE);
    nvmx_write(vcpu, F_GUEST_RSP, start.gpr[GPR_RSP]);
    nvmx_write(vcpu, F_GUEST_RFLAGS, RFLAGS_FIXED);
    memcpy(vcpu->regs.gpr, start.gpr, sizeof(start.gpr));
}

static enum result result_of_l1(void)
{
    const struct nvmx_vcpu *vcpu = self()->vcpu;
    if (vcpu->in_l2)
        return RESULT_IN_L2;
    if (guest_is_at(HANDLER_UD))
        return RESULT_UNDEFINED_OPCODE;
    if (guest_is_at(EXIT_PAD))
        return RESULT_EXIT;
    uint64_t rflags = nvmx_read(self()->vcpu, F_GUEST_RFLAGS);
    return rflags & RFLAGS_CF ? RESULT_FAIL_INVALID : rflags & RFLAGS_ZF ? RESULT_FAIL_VALID : RESULT_SUCCEED;
}

static enum result l1_executes(struct op op)
{
    set_script(op, op, 1);
    run_script();
    enum result result = result_of_l1();
    if (result != RESULT_EXIT) // whose registers are looked at first
        settle_l1();
    return result;
}

static struct op with_pointer(struct op op, uint64_t pointer)
{
    memcpy(l1_memory(L1_SCRATCH), &pointer, 8);
    return op;
}

static uint64_t vmread(uint32_t encoding)
{
    set_script(VMREAD(GPR_RBX, encoding), NOP, 1);
    run_script();
    uint64_t value = result_of_l1() == RESULT_SUCCEED ? self()->vcpu->regs.gpr[GPR_RBX] : 0xdead0000dead;
    settle_l1();
    return value;
}

static enum result vmwrite(uint32_t encoding, uint64_t value)
{
    return l1_executes(VMWRITE(encoding, value));
}

static enum result write_fields(uint8_t value)
{
    for (unsigned i = 0; i < VALUE_COUNT; i++)
        if (vmwrite(value_field[i], value_of[i][value]) != RESULT_SUCCEED)
            return RESULT_FAIL_VALID;
    return RESULT_SUCCEED;
}

static enum result write_fault(enum fault fault)
{
    enum result first = vmwrite(VMCS_CR3_TARGET_COUNT, fault == FAULT_CONTROLS ? 5 : 0);
    enum result second = vmwrite(VMCS_GUEST_DR7, fault == FAULT_GUEST ? 1ull << 32 : 0x400);
    return first == RESULT_SUCCEED ? second : first;
}

static void l0_does(enum operation operation)
{
    struct virtual_processor *p = self();
    if (operation == DO_MOVE)
        l0_move(p, 1 - cpu_index(p->cpu));
    else if (operation == DO_PUT_LOAD)
        l0_act(p, L0_PUTS_AND_LOADS);
    else if (operation == DO_LOSE)
        l0_act(p, L0_LOSES_PROCESSOR);
    else if (operation == DO_RESET)
        l0_restart_l1(p, &start);
    else
        vmcs_cache_write_back(p->cpu);
    if (operation == DO_RESET)
        settle_l1();
}

static void l2_does(enum operation operation, const struct specified *before)
{
    struct op back = JUMP(before->current ? L2_CODE_B : L2_CODE_A);
    if (operation == DO_L2_EXITS)
        set_script(CPUID(1), NOP, 1);
    else if (operation == DO_L2_INIT)
        set_script(INIT_ARRIVES, NOP, 1);
    else if (operation == DO_L2_STAYS)
        set_script(IN(L0_PORT), back, 2);
    else
        set_script(WRMSR(MSR_FS_BASE, fs_base_value(!before->vmcs[before->current].fs_base)), back, 2);
    run_script();
}

static enum result l1_does(enum operation operation, const struct specified *before)
{
    switch (operation) {
    case DO_VMXON:
        return l1_executes(with_pointer(VMXON(L1_SCRATCH), VMXON_REGION));
    case DO_VMXOFF:
        return l1_executes(VMXOFF);
    case DO_VMCLEAR_A:
    case DO_VMCLEAR_B:
        return l1_executes(with_pointer(VMCLEAR(L1_SCRATCH), region(operation == DO_VMCLEAR_B)));
    case DO_VMPTRLD_A:
    case DO_VMPTRLD_B:
        return l1_executes(with_pointer(VMPTRLD(L1_SCRATCH), region(operation == DO_VMPTRLD_B)));
    case DO_VMLAUNCH:
        return l1_executes(VMLAUNCH);
    case DO_VMRESUME:
        return l1_executes(VMRESUME);
    case DO_VMWRITE:
        return write_fields(!before->vmcs[before->current].value);
    case DO_BREAK:
        return write_fault((before->vmcs[before->current].fault + 1) % FAULT_COUNT);
    default:
        return actor_probe(before) == NULL ? RESULT_SUCCEED : RESULT_FAIL_VALID;
    }
}

struct expected actor_step(enum operation operation, const struct specified *before)
{
    struct nvmx_vcpu *vcpu = self()->vcpu;
    struct expected seen = {.result = RESULT_SUCCEED};
    if (operation >= DO_MOVE)
        l0_does(operation);
    else if (operation >= DO_L2_EXITS)
        l2_does(operation, before);
    else
        seen.result = l1_does(operation, before);
    if (operation >= DO_L2_EXITS)
        seen.result = operation < DO_MOVE || vcpu->in_l2 ? result_of_l1() : RESULT_SUCCEED;
    if (seen.result == RESULT_EXIT) {
        bool host = nvmx_read(vcpu, F_GUEST_FS_BASE) == value_of[3][before->vmcs[before->current].value];
        settle_l1();
        seen.reason = host ? (uint32_t)vmread(VMCS_EXIT_REASON) : 0xbad;
    } else if (seen.result == RESULT_FAIL_VALID) {
        seen.error = (uint32_t)vmread(VMCS_VM_INSTRUCTION_ERROR);
    }
    return seen;
}

const char *actor_probe(const struct specified *s)
{
    uint64_t pointer = 0, wanted = s->current < 0 ? UINT64_MAX : region(s->current);
    if (!s->vmxon)
        return NULL;
    if (l1_executes(VMPTRST(L1_SCRATCH)) != RESULT_SUCCEED)
        return "VMPTRST fails";
    memcpy(&pointer, l1_memory(L1_SCRATCH), 8);
    if (pointer != wanted) {
        snprintf(sentence, sizeof(sentence), "VMPTRST says %#llx, and not %#llx", (unsigned long long)pointer,
                 (unsigned long long)wanted);
        return sentence;
    }
    if (s->current < 0)
        return NULL;
    const struct vmcs_specified *vmcs = &s->vmcs[s->current];
    for (unsigned i = 0; i <= VALUE_COUNT; i++) {
        uint32_t field = i < VALUE_COUNT ? value_field[i] : VMCS_GUEST_FS_BASE;
        uint64_t value = vmread(field),
                 right = i < VALUE_COUNT ? value_of[i][vmcs->value] : fs_base_value(vmcs->fs_base);
        if (value != right) {
            snprintf(sentence, sizeof(sentence), "VMREAD of field %#x gives %#llx, and not %#llx", field,
                     (unsigned long long)value, (unsigned long long)right);
            return sentence;
        }
    }
    return NULL;
}

// --- the beginning

static void prepare_vmcs(uint64_t vmcs, struct l2 *l2, uint64_t code)
{
    l2->code = code;
    l1_prepare_vmcs(vmcs, l2);
    for (unsigned i = 0; i < VALUE_COUNT; i++)
        l1_vmwrite(value_field[i], value_of[i][0]);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_TSC_OFFSETTING);
    l1_vmwrite(VMCS_GUEST_FS_BASE, fs_base_value(0));
    l1_vmclear(vmcs);
}

void actor_begin(void)
{
    world_begin(&(struct world_config){.nested = true, .floating = true, .cpu_count = 2, .seed = 1});
    machine_trace(world->machine, NULL);
    world->machine->writes_back_when_told = true;
    struct virtual_processor *p = self();
    start = p->cpu->r;
    start.cr4 |= CR4_VMXE;
    start.rip = L1_CODE;
    L2_PROGRAM(a, NOP);
    L2_PROGRAM(b, NOP);
    machine_add_live(world->machine, L2_CODE_A, L2_CODE_B);
    machine_add_live(world->machine, L2_CODE_B, L2_CODE_B + 0x1000);
    l1_enter_vmx_operation();
    prepare_vmcs(VMCS_A, &a, L2_CODE_A);
    b.eptp = a.eptp;
    prepare_vmcs(VMCS_B, &b, L2_CODE_B);
    l1_vmxoff();
    p->parked = true;
    world->on_wait = on_wait;
    script.next = script.count = 0;
    world_resume(); // L0 interrupts L1, and the vcpu's fiber ends for the test
    machine_execute_on(world->machine, p->cpu);
    l0_restart_l1(p, &start);
    settle_l1();
}

// --- what must hold between any two VM entries

static const char *said(const char *format, unsigned long long a, unsigned long long b)
{
    snprintf(sentence, sizeof(sentence), format, a, b);
    return sentence;
}

static bool is_listed(const struct nvmx_cpu *cpu, uint64_t vmcs)
{
    for (const struct vmcs *at = cpu->active; at != NULL; at = at->active_next)
        if (at->region.value == vmcs)
            return true;
    return false;
}

// The engine's lists have what is in the processors' caches, and nothing else.
static const char *check_lists(unsigned index)
{
    const struct nvmx_cpu *cpu = &world->l0_cpu[index];
    struct hw_cpu *hw = world->machine->cpu[index];
    for (const struct active_vmcs *vmcs = hw->active; vmcs != NULL; vmcs = vmcs->next)
        if (!is_listed(cpu, vmcs->region))
            return said("VMCS %#llx is active on processor %llu and not on the engine's list", vmcs->region,
                        index);
    for (const struct vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->active_next) {
        if (vmcs->active_on != cpu || *vmcs->active_link != vmcs)
            return said("the list of processor %llu is broken at VMCS %#llx", index, vmcs->region.value);
        const struct active_vmcs *active = vmcs_cache_find(hw, vmcs->region.value);
        if (active == NULL)
            return said("VMCS %#llx is listed and not active on processor %llu", vmcs->region.value, index);
        if (active->data.launched != vmcs->launched)
            return said("the launch state of VMCS %#llx is %llu, and the engine believes otherwise",
                        vmcs->region.value, active->data.launched);
    }
    return NULL;
}

// What the engine believes to have written is in the VMCS, wherever that is.
static const char *check_written(const struct vmcs *vmcs)
{
    struct vmcs_data data;
    if (vmcs->active_on != NULL)
        data = vmcs_cache_find(vmcs->active_on->hw, vmcs->region.value)->data;
    else if (vmcs_region_load(world->machine, vmcs->region.value, &data) != REGION_INITIALIZED)
        return NULL;
    if (vmcs->active_on == NULL && (vmcs->launched || data.launched))
        return said("VMCS %#llx is clear, and counts as launched", vmcs->region.value, 0);
    for (unsigned field = 0; field < F_COUNT; field++) {
        bool known = vmcs->written_known.bits[field / 64] >> (field % 64) & 1;
        bool control = vmcs_encoding_type(vmcs_field_encoding((enum vmcs_field)field)) == VMCS_TYPE_CONTROL;
        if (known && control && data.field[field] != vmcs->written[field])
            return said("field %llu of VMCS %#llx is not what the engine believes", field,
                        vmcs->region.value);
    }
    return NULL;
}

const char *actor_invariant(void)
{
    const struct nvmx_vcpu *vcpu = self()->vcpu;
    struct hw_cpu *cpu = self()->cpu;
    const char *problem = NULL;
    for (unsigned i = 0; i < 2 && problem == NULL; i++)
        problem = check_lists(i);
    if (problem == NULL)
        problem = check_written(&vcpu->vmcs01);
    if (problem == NULL)
        problem = check_written(&vcpu->vmcs02);
    if (problem != NULL)
        return problem;
    const struct vmcs *right = vcpu->in_l2 ? &vcpu->vmcs02 : &vcpu->vmcs01;
    if (vcpu->current != right || cpu->current_pointer != right->region.value)
        return said("the current VMCS is %#llx, and not %#llx", cpu->current_pointer, right->region.value);
    struct port_host_cpu host;
    port_host_cpu(cpu, &host);
    if (nvmx_read(self()->vcpu, F_HOST_GS_BASE) != host.gs_base)
        return said("vmcs0%llu has the host state of another processor than %llu", vcpu->in_l2 ? 2 : 1,
                    cpu->index);
    if (nvmx_read(self()->vcpu, F_VMCS_LINK_POINTER) != UINT64_MAX &&
        (vcpu->in_l2 || vcpu->vmcs12_pointer.value == UINT64_MAX))
        return "a shadow VMCS is linked though L1 has no VMCS to shadow, or L2 runs";
    return NULL;
}
