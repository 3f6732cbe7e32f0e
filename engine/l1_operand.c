// SPDX-License-Identifier: MIT
// The operand of a VMX instruction that L1 executed: from the exit's instruction information to a register or
// a linear address, with the segment checks of L1's mode. Manual: Format of the VM-Exit
// Instruction-Information Field; Protection (Limit Checking, Type Checking).
#include "engine.h"

#define INFO_SCALE(info)        ((info)&3)
#define INFO_REG1(info)         (((info) >> 3) & 15)
#define INFO_ADDRESS_SIZE(info) (((info) >> 7) & 7) // 0: 16 bits, 1: 32, 2: 64
#define INFO_IS_REGISTER        (1u << 10)
#define INFO_SEGMENT(info)      (((info) >> 15) & 7)
#define INFO_INDEX(info)        (((info) >> 18) & 15)
#define INFO_INDEX_INVALID      (1u << 22)
#define INFO_BASE(info)         (((info) >> 23) & 15)
#define INFO_BASE_INVALID       (1u << 27)

bool l1_is_64bit(struct nvmx_vcpu *vcpu)
{
    return (vmcs_read(vcpu, F_GUEST_IA32_EFER) & EFER_LMA) != 0 &&
           (vmcs_read(vcpu, F_GUEST_CS_ACCESS_RIGHTS) & SEGMENT_L) != 0;
}

uint64_t l1_gpr_read(struct nvmx_vcpu *vcpu, uint32_t gpr)
{
    return gpr == GPR_RSP ? vmcs_read(vcpu, F_GUEST_RSP) : vcpu->regs.gpr[gpr];
}

void l1_gpr_write(struct nvmx_vcpu *vcpu, uint32_t gpr, uint64_t value)
{
    if (gpr == GPR_RSP)
        vmcs_write(vcpu, F_GUEST_RSP, value);
    else
        vcpu->regs.gpr[gpr] = value;
}

// Outside 64-bit mode: may the access of `size` bytes at `offset` go through this segment?
static bool segment_allows(uint32_t rights, uint32_t limit, uint64_t offset, uint32_t size, bool write)
{
    if ((rights & SEGMENT_UNUSABLE) != 0)
        return false;
    bool code = (rights & 8) != 0;
    bool readable_or_writable = (rights & 2) != 0;
    if (write ? code || !readable_or_writable : code && !readable_or_writable)
        return false;
    uint64_t last = offset + size - 1;
    bool expand_down = !code && (rights & 4) != 0;
    if (!expand_down)
        return last <= limit;
    uint64_t upper = (rights & SEGMENT_DB) != 0 ? 0xffffffff : 0xffff;
    return offset > limit && last <= upper;
}

bool l1_segment_allows(struct nvmx_vcpu *vcpu, uint32_t segment, uint64_t offset, uint32_t size, bool write)
{
    uint32_t rights = (uint32_t)vmcs_read(vcpu, (enum vmcs_field)(F_GUEST_ES_ACCESS_RIGHTS + segment));
    uint32_t limit = (uint32_t)vmcs_read(vcpu, (enum vmcs_field)(F_GUEST_ES_LIMIT + segment));
    return segment_allows(rights, limit, offset, size, write);
}

enum access_result l1_operand_decode(struct nvmx_vcpu *vcpu, uint32_t size, bool write,
                                     struct operand *operand)
{
    static const uint64_t address_mask[8] = {0xffff, 0xffffffff, ~0ull};
    uint32_t info = vcpu->exit.instruction_info;
    *operand = (struct operand){0};
    if ((info & INFO_IS_REGISTER) != 0) {
        operand->is_register = true;
        operand->gpr = INFO_REG1(info);
        return ACCESS_OK;
    }
    uint64_t offset = vcpu->exit.qualification; // the displacement
    if ((info & INFO_BASE_INVALID) == 0)
        offset += l1_gpr_read(vcpu, INFO_BASE(info));
    if ((info & INFO_INDEX_INVALID) == 0)
        offset += l1_gpr_read(vcpu, INFO_INDEX(info)) << INFO_SCALE(info);
    offset &= address_mask[INFO_ADDRESS_SIZE(info)];

    uint32_t segment = INFO_SEGMENT(info);
    enum vmcs_field base_field = (enum vmcs_field)(F_GUEST_ES_BASE + segment);
    uint32_t fault_vector = segment == SEG_SS ? VECTOR_SS : VECTOR_GP;
    if (l1_is_64bit(vcpu)) {
        operand->linear_address = offset;
        if (segment == SEG_FS || segment == SEG_GS)
            operand->linear_address += vmcs_read(vcpu, base_field);
        if (address_is_canonical(operand->linear_address) &&
            address_is_canonical(operand->linear_address + size - 1))
            return ACCESS_OK;
    } else {
        operand->linear_address = (uint32_t)(vmcs_read(vcpu, base_field) + offset);
        if (l1_segment_allows(vcpu, segment, offset, size, write))
            return ACCESS_OK;
    }
    nvmx_raise(vcpu, fault_vector, true, 0);
    return ACCESS_FAULT;
}

enum access_result l1_linear_translate(struct nvmx_vcpu *vcpu, uint64_t linear, uint32_t access,
                                       l1pa_t *physical)
{
    uint32_t error_code;
    if (l1_paging_walk(vcpu, linear, access, physical, &error_code))
        return ACCESS_OK;
    hw_write_cr2(vcpu->cpu, linear);
    nvmx_raise(vcpu, VECTOR_PF, true, error_code);
    return ACCESS_FAULT;
}

void l1_physical_access(struct nvmx_vcpu *vcpu, l1pa_t physical, void *buffer, uint32_t size, bool write)
{
    if (write)
        port_l1_write(vcpu, physical, buffer, size);
    else if (!port_l1_read(vcpu, physical, buffer, size))
        for (uint32_t i = 0; i < size; i++)
            ((uint8_t *)buffer)[i] = 0xff;
}

// One piece that does not cross a page.
static enum access_result linear_piece(struct nvmx_vcpu *vcpu, uint64_t linear, void *buffer, uint32_t size,
                                       bool write)
{
    l1pa_t physical;
    if (l1_linear_translate(vcpu, linear, write ? PF_W : 0, &physical) != ACCESS_OK)
        return ACCESS_FAULT;
    if (buffer != NULL)
        l1_physical_access(vcpu, physical, buffer, size, write);
    return ACCESS_OK;
}

static enum access_result linear_access(struct nvmx_vcpu *vcpu, uint64_t linear, uint8_t *buffer,
                                        uint32_t size, bool write)
{
    uint64_t mask = l1_is_64bit(vcpu) ? ~0ull : 0xffffffff;
    uint32_t first = (uint32_t)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
    if (first >= size)
        return linear_piece(vcpu, linear & mask, buffer, size, write);
    // A write that crosses into a page that faults changes nothing: both pages are walked first.
    if (write && (linear_piece(vcpu, linear & mask, NULL, 0, true) != ACCESS_OK ||
                  linear_piece(vcpu, (linear + first) & mask, NULL, 0, true) != ACCESS_OK))
        return ACCESS_FAULT;
    if (linear_piece(vcpu, linear & mask, buffer, first, write) != ACCESS_OK)
        return ACCESS_FAULT;
    return linear_piece(vcpu, (linear + first) & mask, buffer + first, size - first, write);
}

enum access_result l1_linear_read(struct nvmx_vcpu *vcpu, uint64_t linear, void *to, uint32_t size)
{
    return linear_access(vcpu, linear, to, size, false);
}

enum access_result l1_linear_write(struct nvmx_vcpu *vcpu, uint64_t linear, const void *from, uint32_t size)
{
    // linear_access writes through the pointer only when it reads memory
    return linear_access(vcpu, linear, (uint8_t *)(uintptr_t)from, size, true);
}
