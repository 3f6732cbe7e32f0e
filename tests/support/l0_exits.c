// SPDX-License-Identifier: MIT
// What the small L0 does at the exits that the engine leaves to it.
#include "world_internal.h"

#define L0_PORT_VALUE 0x42u

static void handle_cpuid(struct nvmx_vcpu *vcpu)
{
    uint32_t leaf = (uint32_t)vcpu->regs.gpr[GPR_RAX], subleaf = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    uint32_t raw[4];
    cpu_cpuid(vcpu->cpu, leaf, subleaf, raw);
    struct nvmx_cpuid result = {raw[0], raw[1], raw[2], raw[3]};
    nvmx_cpuid_adjust(vcpu, leaf, subleaf, &result);
    vcpu->regs.gpr[GPR_RAX] = result.eax;
    vcpu->regs.gpr[GPR_RBX] = result.ebx;
    vcpu->regs.gpr[GPR_RCX] = result.ecx;
    vcpu->regs.gpr[GPR_RDX] = result.edx;
    nvmx_skip_instruction(vcpu);
}

static bool emulate_x2apic(uint32_t msr, bool write, uint64_t *value)
{
    if (msr > X2APIC_LAST || (write && (msr == 0x802 || msr == 0x803)))
        return false;
    uint64_t *reg = &world->l0_x2apic[msr - X2APIC_FIRST];
    *(write ? reg : value) = *(write ? value : reg);
    return true;
}

static void handle_msr(struct nvmx_vcpu *vcpu, bool write)
{
    uint32_t msr = (uint32_t)vcpu->regs.gpr[GPR_RCX];
    uint64_t value = (uint32_t)vcpu->regs.gpr[GPR_RAX] | vcpu->regs.gpr[GPR_RDX] << 32;
    enum nvmx_msr_result result = write ? nvmx_wrmsr(vcpu, msr, value) : nvmx_rdmsr(vcpu, msr, &value);
    if (result == NVMX_MSR_NOT_MINE) {
        bool done;
        if (world->config.l0_emulates_x2apic && msr >> 8 == X2APIC_FIRST >> 8)
            done = emulate_x2apic(msr, write, &value);
        else
            done = write ? hw_wrmsr(vcpu->cpu, msr, value) : hw_rdmsr(vcpu->cpu, msr, &value);
        result = done ? NVMX_MSR_OK : NVMX_MSR_GP;
    }
    if (result == NVMX_MSR_GP) {
        nvmx_raise(vcpu, VECTOR_GP, true, 0);
        return;
    }
    if (!write) {
        vcpu->regs.gpr[GPR_RAX] = (uint32_t)value;
        vcpu->regs.gpr[GPR_RDX] = value >> 32;
    }
    nvmx_skip_instruction(vcpu);
}

// INS and OUTS between a port of L0's and L1's memory; in L2 nothing is transferred.
static void handle_string_io(struct nvmx_vcpu *vcpu)
{
    struct nvmx_string string;
    if (!nvmx_string_begin(vcpu, &string))
        return; // L1 has an exception instead, or nothing is left
    uint8_t *port = world->machine->port;
    uint32_t value = 0;
    if (string.in)
        for (unsigned i = 0; i < string.size; i++)
            value |= (uint32_t)port[(string.port + i) & 0xffff] << 8 * i;
    else
        value = nvmx_string_read(vcpu, &string);
    if (string.in)
        nvmx_string_write(vcpu, &string, value);
    else if (string.has_memory)
        for (unsigned i = 0; i < string.size; i++)
            port[(string.port + i) & 0xffff] = (uint8_t)(value >> 8 * i);
    nvmx_string_end(vcpu, &string);
}

// L0's port, or one that the engine wants L0 to access for L2.
static void handle_io(struct nvmx_vcpu *vcpu)
{
    uint64_t qualification = vcpu->exit.qualification, *rax = &vcpu->regs.gpr[GPR_RAX];
    unsigned port = qualification >> 16 & 0xffff, size = (qualification & 7) + 1;
    if (qualification & 16) {
        handle_string_io(vcpu);
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        uint8_t *at = &world->machine->port[(port + i) & 0xffff];
        if (!(qualification & 8))
            *at = (uint8_t)(*rax >> 8 * i);
        else
            *rax = (*rax & ~(0xffull << 8 * i)) | (uint64_t)(port == L0_PORT ? L0_PORT_VALUE : *at) << 8 * i;
    }
    if (qualification & 8 && size == 4)
        *rax = (uint32_t)*rax;
    nvmx_skip_instruction(vcpu);
}

static void handle_interrupt(struct virtual_processor *p)
{
    if (world->config.l0_contains_exits && p->cpu->interrupt_count == 0) {
        nvmx_contain_exit(p->vcpu); // forced by the test
        return;
    }
    int vector = cpu_take_interrupt(p->cpu);
    if (vector != IPI_VECTOR)
        rule_broken(p->cpu, "an external interrupt with vector %d reaches L0, which knows only its own",
                    vector);
}

// An exception that L0 looks at (for its own purposes) belongs to whoever raised it.
static void handle_exception_or_nmi(struct nvmx_vcpu *vcpu)
{
    uint32_t info = vcpu->exit.interruption_info;
    if ((info & INTERRUPTION_TYPE_MASK) == EVENT_NMI << INTERRUPTION_TYPE_SHIFT) {
        nvmx_pend_nmi(vcpu);
        return;
    }
    if (world->config.l0_contains_exits) {
        nvmx_contain_exit(vcpu);
        return;
    }
    if (!(world->config.l0_exceptions >> (info & 31) & 1))
        rule_broken(vcpu->cpu, "an exception (%#x) that L0 does not want is left to it", info);
    world->exception_count++;
    if ((info & INTERRUPTION_VECTOR_MASK) == VECTOR_PF) // an exit leaves CR2 alone
        hw_write_cr2(vcpu->cpu, vcpu->exit.qualification);
    nvmx_raise(vcpu, info & 31, info & INTERRUPTION_ERROR_CODE, vcpu->exit.interruption_error_code);
}

void l0_handle_exit(struct virtual_processor *p)
{
    struct nvmx_vcpu *vcpu = p->vcpu;
    switch (vcpu->exit.reason & EXIT_REASON_BASIC_MASK) {
    case EXIT_CPUID:
        handle_cpuid(vcpu);
        break;
    case EXIT_RDMSR:
        handle_msr(vcpu, false);
        break;
    case EXIT_WRMSR:
        handle_msr(vcpu, true);
        break;
    case EXIT_IO_INSTRUCTION:
        handle_io(vcpu);
        break;
    case EXIT_EXTERNAL_INTERRUPT:
        handle_interrupt(p);
        break;
    case EXIT_EXCEPTION_OR_NMI:
        handle_exception_or_nmi(vcpu);
        break;
    case EXIT_TRIPLE_FAULT: // as a processor does
        nvmx_write(vcpu, F_GUEST_ACTIVITY_STATE, ACTIVITY_SHUTDOWN);
        break;
    case EXIT_INIT_SIGNAL:
        if (!vcpu->vmxon)
            nvmx_reset_l1(vcpu);
        break;
    case EXIT_STARTUP_IPI:
        nvmx_start_l1_at(vcpu, (uint8_t)vcpu->exit.qualification);
        break;
    case EXIT_EPT_VIOLATION:
        l0_map_hole(p);
        break;
    case EXIT_INVD:
    case EXIT_WBINVD:
        nvmx_skip_instruction(vcpu);
        break;
    default:
        if (world->config.l0_contains_exits) {
            nvmx_contain_exit(vcpu);
            break;
        }
        rule_broken(p->cpu,
                    "the engine leaves to L0 an exit of L%u that the tests' L0 does not know: %s (%#x), "
                    "qualification %#llx, guest-physical %#llx",
                    vcpu->in_l2 ? 2u : 1u, nvmx_exit_name(vcpu->exit.reason & 0xffff), vcpu->exit.reason,
                    (unsigned long long)vcpu->exit.qualification,
                    (unsigned long long)vcpu->exit.guest_physical_address);
    }
}
