// SPDX-License-Identifier: MIT
// The VMX instructions, one wrapper each; what they say with RFLAGS is the result. Addresses are L1-physical.
#ifndef GUEST_VMX_H
#define GUEST_VMX_H

#include <nvmx/types.h>
#include <nvmx/vmcs.h>

#define VMX_NO_VMCS (~0ull) // what VMPTRST stores when there is no current VMCS

struct vmx_descriptor { // of INVEPT and INVVPID
    uint64_t low, high;
};

static inline enum vmx_status vmx_status_of(bool carry, bool zero)
{
    return carry ? VMX_FAIL_INVALID : zero ? VMX_FAIL_VALID : VMX_SUCCEED;
}

#define VMX_POINTER_INSTRUCTION(name)                                                                        \
    static inline enum vmx_status vmx_##name(uint64_t address)                                               \
    {                                                                                                        \
        bool carry, zero;                                                                                    \
        __asm__ volatile(#name " %2" : "=@ccc"(carry), "=@ccz"(zero) : "m"(address) : "memory");             \
        return vmx_status_of(carry, zero);                                                                   \
    }
VMX_POINTER_INSTRUCTION(vmxon)
VMX_POINTER_INSTRUCTION(vmclear)
VMX_POINTER_INSTRUCTION(vmptrld)
#undef VMX_POINTER_INSTRUCTION

#define VMX_BARE_INSTRUCTION(name)                                                                           \
    static inline enum vmx_status vmx_##name(void)                                                           \
    {                                                                                                        \
        bool carry, zero;                                                                                    \
        __asm__ volatile(#name : "=@ccc"(carry), "=@ccz"(zero) : : "memory");                                \
        return vmx_status_of(carry, zero);                                                                   \
    }
VMX_BARE_INSTRUCTION(vmxoff)
VMX_BARE_INSTRUCTION(vmcall)
// Only where they are expected to fail: a success continues at the VMCS's host RIP. To enter an L2: l2_enter.
VMX_BARE_INSTRUCTION(vmlaunch)
VMX_BARE_INSTRUCTION(vmresume)
#undef VMX_BARE_INSTRUCTION

static inline enum vmx_status vmx_vmptrst(uint64_t *address)
{
    bool carry, zero;
    __asm__ volatile("vmptrst %2" : "=@ccc"(carry), "=@ccz"(zero), "=m"(*address) : : "memory");
    return vmx_status_of(carry, zero);
}

static inline enum vmx_status vmx_vmread(uint64_t encoding, uint64_t *value)
{
    bool carry, zero;
    uint64_t read = *value;
    __asm__ volatile("vmread %3, %2" : "=@ccc"(carry), "=@ccz"(zero), "+r"(read) : "r"(encoding) : "memory");
    *value = read;
    return vmx_status_of(carry, zero);
}

static inline enum vmx_status vmx_vmread_memory(uint64_t encoding, uint64_t *value)
{
    bool carry, zero;
    __asm__ volatile("vmread %3, %2"
                     : "=@ccc"(carry), "=@ccz"(zero), "+m"(*value)
                     : "r"(encoding)
                     : "memory");
    return vmx_status_of(carry, zero);
}

static inline enum vmx_status vmx_vmwrite(uint64_t encoding, uint64_t value)
{
    bool carry, zero;
    __asm__ volatile("vmwrite %2, %3" : "=@ccc"(carry), "=@ccz"(zero) : "r"(value), "r"(encoding) : "memory");
    return vmx_status_of(carry, zero);
}

static inline enum vmx_status vmx_vmwrite_memory(uint64_t encoding, const uint64_t *value)
{
    bool carry, zero;
    __asm__ volatile("vmwrite %2, %3"
                     : "=@ccc"(carry), "=@ccz"(zero)
                     : "m"(*value), "r"(encoding)
                     : "memory");
    return vmx_status_of(carry, zero);
}

static inline enum vmx_status vmx_invept(uint64_t type, uint64_t eptp, uint64_t reserved)
{
    bool carry, zero;
    struct vmx_descriptor descriptor = {eptp, reserved};
    __asm__ volatile("invept %2, %3" : "=@ccc"(carry), "=@ccz"(zero) : "m"(descriptor), "r"(type) : "memory");
    return vmx_status_of(carry, zero);
}

// vpid: bits 63:0 of the descriptor, of which bits 63:16 are reserved.
static inline enum vmx_status vmx_invvpid(uint64_t type, uint64_t vpid, uint64_t linear)
{
    bool carry, zero;
    struct vmx_descriptor descriptor = {vpid, linear};
    __asm__ volatile("invvpid %2, %3"
                     : "=@ccc"(carry), "=@ccz"(zero)
                     : "m"(descriptor), "r"(type)
                     : "memory");
    return vmx_status_of(carry, zero);
}

#endif
