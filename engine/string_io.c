// SPDX-License-Identifier: MIT
// INS and OUTS at ports that L0 intercepts: the memory of an element, as the instruction's own access, and
// the registers that count the elements. What I/O privilege has to say, the processor said before the exit.
// Manual: INS/INSB/INSW/INSD; OUTS/OUTSB/OUTSW/OUTSD; Relative Priority of Faults and VM Exits; Exit
// Qualification for I/O Instructions; VM-Exit Instruction-Information Field as Used for INS and OUTS.
#include "engine.h"

#define QUALIFICATION_SIZE(q) (((uint32_t)(q)&7) + 1)
#define QUALIFICATION_IN      (1u << 3)
#define QUALIFICATION_REP     (1u << 5)

#define INFO_ADDRESS_SIZE(info) (((info) >> 7) & 7)  // 0: 16 bits, 1: 32, 2: 64
#define INFO_SEGMENT(info)      (((info) >> 15) & 7) // of OUTS; INS writes through ES whatever the prefix

#define PENDING_BS (1ull << 14)

static uint32_t index_register(const struct nvmx_string *string)
{
    return string->in ? GPR_RDI : GPR_RSI;
}

// The exit's guest-linear address is undefined for a segment that is not usable, which has faulted by then.
static enum access_result check_address(struct nvmx_vcpu *vcpu, const struct nvmx_string *string,
                                        uint64_t linear)
{
    uint32_t segment = string->in ? SEG_ES : INFO_SEGMENT(vcpu->exit.instruction_info);
    uint64_t offset = vcpu->regs.gpr[index_register(string)] & string->address_mask;
    bool valid =
        l1_is_64bit(vcpu)
            ? address_is_canonical(linear) && address_is_canonical(linear + string->size - 1)
            : segment <= SEG_GS && l1_segment_allows(vcpu, segment, offset, string->size, string->in);
    if (!valid) {
        nvmx_raise(vcpu, segment == SEG_SS ? VECTOR_SS : VECTOR_GP, true, 0);
        return ACCESS_FAULT;
    }
    if ((linear & (string->size - 1)) != 0 && l1_cpl(vcpu) == 3 &&
        (vmcs_read(vcpu, F_GUEST_CR0) & CR0_AM) != 0 && (vmcs_read(vcpu, F_GUEST_RFLAGS) & RFLAGS_AC) != 0) {
        nvmx_raise(vcpu, VECTOR_AC, true, 0);
        return ACCESS_FAULT;
    }
    return ACCESS_OK;
}

// Both pages, before anything is transferred: an element that faults has not touched the port.
static enum access_result translate(struct nvmx_vcpu *vcpu, struct nvmx_string *string, uint64_t linear)
{
    uint32_t access = (string->in ? PF_W : 0) | (l1_cpl(vcpu) == 3 ? PF_U : 0);
    uint64_t mask = l1_is_64bit(vcpu) ? ~0ull : 0xffffffff;
    uint32_t first = (uint32_t)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
    string->size_in_first_page = first < string->size ? first : string->size;
    if (l1_linear_translate(vcpu, linear & mask, access, &string->at[0]) != ACCESS_OK)
        return ACCESS_FAULT;
    if (first >= string->size)
        return ACCESS_OK;
    return l1_linear_translate(vcpu, (linear + first) & mask, access, &string->at[1]);
}

bool nvmx_string_begin(struct nvmx_vcpu *vcpu, struct nvmx_string *string)
{
    static const uint64_t address_mask[8] = {0xffff, 0xffffffff, ~0ull};
    uint64_t qualification = vcpu->exit.qualification, linear = vcpu->exit.guest_linear_address;
    *string = (struct nvmx_string){
        .in = (qualification & QUALIFICATION_IN) != 0,
        .rep = (qualification & QUALIFICATION_REP) != 0,
        .has_memory = !vcpu->in_l2,
        .port = (uint16_t)(qualification >> 16),
        .size = QUALIFICATION_SIZE(qualification),
        .address_mask = address_mask[INFO_ADDRESS_SIZE(vcpu->exit.instruction_info)],
    };
    if (string->rep && (vcpu->regs.gpr[GPR_RCX] & string->address_mask) == 0) {
        nvmx_skip_instruction(vcpu);
        return false;
    }
    if (vcpu->in_l2)
        return true;
    if (!l1_is_64bit(vcpu))
        linear &= 0xffffffff;
    return check_address(vcpu, string, linear) == ACCESS_OK && translate(vcpu, string, linear) == ACCESS_OK;
}

static void transfer(struct nvmx_vcpu *vcpu, const struct nvmx_string *string, uint32_t *value, bool write)
{
    if (!string->has_memory)
        return;
    uint32_t first = string->size_in_first_page;
    l1_physical_access(vcpu, string->at[0], value, first, write);
    if (first < string->size)
        l1_physical_access(vcpu, string->at[1], (uint8_t *)value + first, string->size - first, write);
}

uint32_t nvmx_string_read(struct nvmx_vcpu *vcpu, const struct nvmx_string *string)
{
    uint32_t value = 0;
    transfer(vcpu, string, &value, false);
    return value;
}

void nvmx_string_write(struct nvmx_vcpu *vcpu, const struct nvmx_string *string, uint32_t value)
{
    transfer(vcpu, string, &value, true);
}

// A register of the address size: 16 bits leave the rest alone, 32 bits clear it.
static void add(struct nvmx_vcpu *vcpu, uint32_t gpr, uint64_t by, uint64_t mask)
{
    uint64_t old = vcpu->regs.gpr[gpr];
    vcpu->regs.gpr[gpr] = (mask == 0xffff ? old & ~mask : 0) | ((old + by) & mask);
}

void nvmx_string_end(struct nvmx_vcpu *vcpu, const struct nvmx_string *string)
{
    uint64_t rflags = vmcs_read(vcpu, F_GUEST_RFLAGS), mask = string->address_mask;
    add(vcpu, index_register(string), (rflags & RFLAGS_DF) != 0 ? 0 - (uint64_t)string->size : string->size,
        mask);
    if (string->rep) {
        add(vcpu, GPR_RCX, ~0ull, mask);
        if ((vcpu->regs.gpr[GPR_RCX] & mask) != 0) {
            if ((rflags & RFLAGS_TF) != 0) // behind each element
                vmcs_write(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS,
                           vmcs_read(vcpu, F_GUEST_PENDING_DEBUG_EXCEPTIONS) | PENDING_BS);
            return;
        }
    }
    nvmx_skip_instruction(vcpu);
}
