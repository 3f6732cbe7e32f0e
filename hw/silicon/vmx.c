// SPDX-License-Identifier: MIT
// The VMX instructions. Manual: chapter VMX Instruction Reference.
#include <nvmx/controls.h>
#include <nvmx/port.h>
#include <nvmx/vmcs.h>

#include "silicon.h"
#include "x86.h"

_Static_assert(offsetof(struct hw_cpu, regs) == 64 && offsetof(struct hw_cpu, entry_rsp) == 72 &&
                   offsetof(struct hw_cpu, nmi_came) == 80,
               "enter.S");

static enum vmx_status status_from_flags(bool carry, bool zero)
{
    return carry ? VMX_FAIL_INVALID : zero ? VMX_FAIL_VALID : VMX_SUCCEED;
}

enum vmx_status hw_vmxon(struct hw_cpu *cpu, l0pa_t region)
{
    bool carry, zero;
    (void)cpu;
    __asm__ volatile("vmxon %2" : "=@ccc"(carry), "=@ccz"(zero) : "m"(region.value) : "memory");
    return status_from_flags(carry, zero);
}

enum vmx_status hw_vmxoff(struct hw_cpu *cpu)
{
    bool carry, zero;
    (void)cpu;
    __asm__ volatile("vmxoff" : "=@ccc"(carry), "=@ccz"(zero) : : "memory");
    return status_from_flags(carry, zero);
}

enum vmx_status hw_vmclear(struct hw_cpu *cpu, l0pa_t region)
{
    bool carry, zero;
    (void)cpu;
    __asm__ volatile("vmclear %2" : "=@ccc"(carry), "=@ccz"(zero) : "m"(region.value) : "memory");
    return status_from_flags(carry, zero);
}

enum vmx_status hw_vmptrld(struct hw_cpu *cpu, l0pa_t region)
{
    bool carry, zero;
    (void)cpu;
    __asm__ volatile("vmptrld %2" : "=@ccc"(carry), "=@ccz"(zero) : "m"(region.value) : "memory");
    return status_from_flags(carry, zero);
}

uint64_t hw_vmread(struct hw_cpu *cpu, uint32_t encoding)
{
    uint64_t value;
    bool failed;
    (void)cpu;
    __asm__ volatile("vmread %2, %0" : "=r"(value), "=@ccbe"(failed) : "r"((uint64_t)encoding));
    if (__builtin_expect(failed, 0))
        port_bug("VMREAD failed: field encoding", encoding, 0);
    return value;
}

void hw_vmwrite(struct hw_cpu *cpu, uint32_t encoding, uint64_t value)
{
    bool failed;
    (void)cpu;
    __asm__ volatile("vmwrite %1, %2" : "=@ccbe"(failed) : "r"(value), "r"((uint64_t)encoding) : "memory");
    if (__builtin_expect(failed, 0))
        port_bug("VMWRITE failed: field encoding, value", encoding, value);
}

void hw_invept(struct hw_cpu *cpu, enum hw_invept_type type, uint64_t eptp)
{
    const uint64_t descriptor[2] = {eptp, 0};
    bool failed;
    (void)cpu;
    __asm__ volatile("invept %1, %2" : "=@ccbe"(failed) : "m"(descriptor), "r"((uint64_t)type) : "memory");
    if (failed)
        port_bug("INVEPT failed: type, EPT pointer", (uint64_t)type, eptp);
}

void hw_invvpid(struct hw_cpu *cpu, enum hw_invvpid_type type, uint16_t vpid, uint64_t linear_address)
{
    const uint64_t descriptor[2] = {vpid, linear_address};
    bool failed;
    (void)cpu;
    __asm__ volatile("invvpid %1, %2" : "=@ccbe"(failed) : "m"(descriptor), "r"((uint64_t)type) : "memory");
    if (failed)
        port_bug("INVVPID failed: type, VPID", (uint64_t)type, vpid);
}

void hw_write_cr2(struct hw_cpu *cpu, uint64_t linear_address)
{
    (void)cpu;
    x86_write_cr2(linear_address);
}

uint32_t hw_read_pkru(struct hw_cpu *cpu)
{
    uint64_t cr4 = x86_read_cr4();
    (void)cpu;
    x86_write_cr4(cr4 | CR4_PKE);
    uint32_t value = x86_rdpkru();
    x86_write_cr4(cr4);
    return value;
}
