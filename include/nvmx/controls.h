// SPDX-License-Identifier: MIT
// Bits of the VMX controls (controls.def says what becomes of each), of the capability MSRs and of the
// registers that the engine looks at. Manual: Virtual Machine Control Structures; appendix VMX Capability
// Reporting Facility.
#ifndef NVMX_CONTROLS_H
#define NVMX_CONTROLS_H

// Pin-Based VM-Execution Controls
#define PIN_EXTERNAL_INTERRUPT_EXITING (1u << 0)
#define PIN_NMI_EXITING                (1u << 3)
#define PIN_VIRTUAL_NMIS               (1u << 5)
#define PIN_PREEMPTION_TIMER           (1u << 6)
#define PIN_POSTED_INTERRUPTS          (1u << 7)

// Primary Processor-Based VM-Execution Controls
#define PRIMARY_INTERRUPT_WINDOW_EXITING (1u << 2)
#define PRIMARY_USE_TSC_OFFSETTING       (1u << 3)
#define PRIMARY_HLT_EXITING              (1u << 7)
#define PRIMARY_INVLPG_EXITING           (1u << 9)
#define PRIMARY_MWAIT_EXITING            (1u << 10)
#define PRIMARY_RDPMC_EXITING            (1u << 11)
#define PRIMARY_RDTSC_EXITING            (1u << 12)
#define PRIMARY_CR3_LOAD_EXITING         (1u << 15)
#define PRIMARY_CR3_STORE_EXITING        (1u << 16)
#define PRIMARY_CR8_LOAD_EXITING         (1u << 19)
#define PRIMARY_CR8_STORE_EXITING        (1u << 20)
#define PRIMARY_USE_TPR_SHADOW           (1u << 21)
#define PRIMARY_NMI_WINDOW_EXITING       (1u << 22)
#define PRIMARY_MOV_DR_EXITING           (1u << 23)
#define PRIMARY_UNCONDITIONAL_IO_EXITING (1u << 24)
#define PRIMARY_USE_IO_BITMAPS           (1u << 25)
#define PRIMARY_MONITOR_TRAP_FLAG        (1u << 27)
#define PRIMARY_USE_MSR_BITMAPS          (1u << 28)
#define PRIMARY_MONITOR_EXITING          (1u << 29)
#define PRIMARY_PAUSE_EXITING            (1u << 30)
#define PRIMARY_ACTIVATE_SECONDARY       (1u << 31)

// Secondary Processor-Based VM-Execution Controls
#define SECONDARY_VIRTUALIZE_APIC_ACCESSES     (1u << 0)
#define SECONDARY_ENABLE_EPT                   (1u << 1)
#define SECONDARY_DESCRIPTOR_TABLE_EXITING     (1u << 2)
#define SECONDARY_ENABLE_RDTSCP                (1u << 3)
#define SECONDARY_VIRTUALIZE_X2APIC_MODE       (1u << 4)
#define SECONDARY_ENABLE_VPID                  (1u << 5)
#define SECONDARY_WBINVD_EXITING               (1u << 6)
#define SECONDARY_UNRESTRICTED_GUEST           (1u << 7)
#define SECONDARY_APIC_REGISTER_VIRTUALIZATION (1u << 8)
#define SECONDARY_VIRTUAL_INTERRUPT_DELIVERY   (1u << 9)
#define SECONDARY_PAUSE_LOOP_EXITING           (1u << 10)
#define SECONDARY_RDRAND_EXITING               (1u << 11)
#define SECONDARY_ENABLE_INVPCID               (1u << 12)
#define SECONDARY_ENABLE_VMFUNC                (1u << 13)
#define SECONDARY_VMCS_SHADOWING               (1u << 14)
#define SECONDARY_ENCLS_EXITING                (1u << 15)
#define SECONDARY_RDSEED_EXITING               (1u << 16)
#define SECONDARY_ENABLE_PML                   (1u << 17)
#define SECONDARY_EPT_VIOLATION_VE             (1u << 18)
#define SECONDARY_ENABLE_XSAVES                (1u << 20)
#define SECONDARY_MODE_BASED_EXECUTE_CONTROL   (1u << 22)
#define SECONDARY_USE_TSC_SCALING              (1u << 25)

// Primary VM-Exit Controls
#define EXIT_SAVE_DEBUG_CONTROLS           (1u << 2)
#define EXIT_HOST_ADDRESS_SPACE_SIZE       (1u << 9)
#define EXIT_LOAD_PERF_GLOBAL_CTRL         (1u << 12)
#define EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT (1u << 15)
#define EXIT_SAVE_PAT                      (1u << 18)
#define EXIT_LOAD_PAT                      (1u << 19)
#define EXIT_SAVE_EFER                     (1u << 20)
#define EXIT_LOAD_EFER                     (1u << 21)
#define EXIT_SAVE_PREEMPTION_TIMER         (1u << 22)
#define EXIT_SAVE_PERF_GLOBAL_CTRL         (1u << 30)

// VM-Entry Controls
#define ENTRY_LOAD_DEBUG_CONTROLS   (1u << 2)
#define ENTRY_IA32E_MODE_GUEST      (1u << 9)
#define ENTRY_TO_SMM                (1u << 10)
#define ENTRY_DEACTIVATE_DUAL       (1u << 11)
#define ENTRY_LOAD_PERF_GLOBAL_CTRL (1u << 13)
#define ENTRY_LOAD_PAT              (1u << 14)
#define ENTRY_LOAD_EFER             (1u << 15)

// Exit reason field: bit 31 says that it was a failed VM entry.
#define EXIT_REASON_BASIC_MASK    0xffffu
#define EXIT_REASON_ENTRY_FAILURE (1u << 31)

// Interruption information (entry, exit and IDT-vectoring share the layout)
#define INTERRUPTION_VECTOR_MASK    0xffu
#define INTERRUPTION_TYPE_MASK      0x700u
#define INTERRUPTION_TYPE_SHIFT     8
#define INTERRUPTION_ERROR_CODE     (1u << 11)
#define INTERRUPTION_NMI_UNBLOCKING (1u << 12)
#define INTERRUPTION_VALID          (1u << 31)
#define EVENT_EXTERNAL_INTERRUPT    0u
#define EVENT_NMI                   2u
#define EVENT_HARDWARE_EXCEPTION    3u
#define EVENT_SOFTWARE_INTERRUPT    4u
#define EVENT_PRIVILEGED_SOFTWARE   5u
#define EVENT_SOFTWARE_EXCEPTION    6u
#define EVENT_OTHER                 7u

// Guest interruptibility state and activity state
#define INTERRUPTIBILITY_STI    (1u << 0)
#define INTERRUPTIBILITY_MOV_SS (1u << 1)
#define INTERRUPTIBILITY_SMI    (1u << 2)
#define INTERRUPTIBILITY_NMI    (1u << 3)
#define ACTIVITY_ACTIVE         0u
#define ACTIVITY_HLT            1u
#define ACTIVITY_SHUTDOWN       2u
#define ACTIVITY_WAIT_FOR_SIPI  3u

// Exceptions
#define VECTOR_DB  1u
#define VECTOR_NMI 2u
#define VECTOR_BP  3u
#define VECTOR_UD  6u
#define VECTOR_DF  8u
#define VECTOR_TS  10u
#define VECTOR_NP  11u
#define VECTOR_SS  12u
#define VECTOR_GP  13u
#define VECTOR_PF  14u
#define VECTOR_AC  17u
#define VECTOR_MC  18u
#define VECTOR_VE  20u
#define VECTOR_CP  21u

// Control registers, RFLAGS, EFER
#define CR0_PE       (1ull << 0)
#define CR0_MP       (1ull << 1)
#define CR0_EM       (1ull << 2)
#define CR0_TS       (1ull << 3)
#define CR0_ET       (1ull << 4)
#define CR0_NE       (1ull << 5)
#define CR0_WP       (1ull << 16)
#define CR0_AM       (1ull << 18)
#define CR0_NW       (1ull << 29)
#define CR0_CD       (1ull << 30)
#define CR0_PG       (1ull << 31)
#define CR4_PSE      (1ull << 4)
#define CR4_PAE      (1ull << 5)
#define CR4_MCE      (1ull << 6)
#define CR4_PGE      (1ull << 7)
#define CR4_LA57     (1ull << 12)
#define CR4_VMXE     (1ull << 13)
#define CR4_SMXE     (1ull << 14)
#define CR4_PCIDE    (1ull << 17)
#define CR4_OSXSAVE  (1ull << 18)
#define CR4_SMEP     (1ull << 20)
#define CR4_SMAP     (1ull << 21)
#define CR4_PKE      (1ull << 22)
#define CR4_CET      (1ull << 23)
#define RFLAGS_CF    (1ull << 0)
#define RFLAGS_FIXED (1ull << 1)
#define RFLAGS_PF    (1ull << 2)
#define RFLAGS_AF    (1ull << 4)
#define RFLAGS_ZF    (1ull << 6)
#define RFLAGS_SF    (1ull << 7)
#define RFLAGS_TF    (1ull << 8)
#define RFLAGS_IF    (1ull << 9)
#define RFLAGS_DF    (1ull << 10)
#define RFLAGS_OF    (1ull << 11)
#define RFLAGS_NT    (1ull << 14)
#define RFLAGS_RF    (1ull << 16)
#define RFLAGS_VM    (1ull << 17)
#define RFLAGS_AC    (1ull << 18)
#define PKRU_AD      1u // of each key: two bits
#define PKRU_WD      2u
#define EFER_SCE     (1ull << 0)
#define EFER_LME     (1ull << 8)
#define EFER_LMA     (1ull << 10)
#define EFER_NXE     (1ull << 11)

// Segment access rights in the VMCS
#define SEGMENT_TYPE_MASK 0xfu
#define SEGMENT_S         (1u << 4)
#define SEGMENT_DPL_SHIFT 5
#define SEGMENT_PRESENT   (1u << 7)
#define SEGMENT_L         (1u << 13)
#define SEGMENT_DB        (1u << 14)
#define SEGMENT_G         (1u << 15)
#define SEGMENT_UNUSABLE  (1u << 16)
// Present, accessed, page granularity, DPL 0: a readable code segment, and a writable data segment
#define SEGMENT_CODE_DPL_0 0x809bu
#define SEGMENT_DATA_DPL_0 0xc093u

// MSRs
#define MSR_IA32_APIC_BASE               0x1bu
#define MSR_IA32_FEATURE_CONTROL         0x3au
#define MSR_IA32_PRED_CMD                0x49u
#define MSR_IA32_SYSENTER_CS             0x174u
#define MSR_IA32_SYSENTER_ESP            0x175u
#define MSR_IA32_SYSENTER_EIP            0x176u
#define MSR_IA32_DEBUGCTL                0x1d9u
#define MSR_IA32_PAT                     0x277u
#define MSR_IA32_PERF_CAPABILITIES       0x345u
#define MSR_IA32_PERF_GLOBAL_CTRL        0x38fu
#define MSR_IA32_VMX_BASIC               0x480u
#define MSR_IA32_VMX_PINBASED_CTLS       0x481u
#define MSR_IA32_VMX_PROCBASED_CTLS      0x482u
#define MSR_IA32_VMX_EXIT_CTLS           0x483u
#define MSR_IA32_VMX_ENTRY_CTLS          0x484u
#define MSR_IA32_VMX_MISC                0x485u
#define MSR_IA32_VMX_CR0_FIXED0          0x486u
#define MSR_IA32_VMX_CR0_FIXED1          0x487u
#define MSR_IA32_VMX_CR4_FIXED0          0x488u
#define MSR_IA32_VMX_CR4_FIXED1          0x489u
#define MSR_IA32_VMX_VMCS_ENUM           0x48au
#define MSR_IA32_VMX_PROCBASED_CTLS2     0x48bu
#define MSR_IA32_VMX_EPT_VPID_CAP        0x48cu
#define MSR_IA32_VMX_TRUE_PINBASED_CTLS  0x48du
#define MSR_IA32_VMX_TRUE_PROCBASED_CTLS 0x48eu
#define MSR_IA32_VMX_TRUE_EXIT_CTLS      0x48fu
#define MSR_IA32_VMX_TRUE_ENTRY_CTLS     0x490u
#define MSR_IA32_VMX_VMFUNC              0x491u
#define MSR_IA32_EFER                    0xc0000080u
#define MSR_FS_BASE                      0xc0000100u
#define MSR_GS_BASE                      0xc0000101u

#define PRED_CMD_IBPB (1ull << 0)

#define FEATURE_CONTROL_LOCKED          (1ull << 0)
#define FEATURE_CONTROL_VMX_OUTSIDE_SMX (1ull << 2)

// IA32_VMX_EPT_VPID_CAP
#define EPT_CAP_EXECUTE_ONLY       (1ull << 0)
#define EPT_CAP_WALK_LENGTH_4      (1ull << 6)
#define EPT_CAP_WALK_LENGTH_5      (1ull << 7)
#define EPT_CAP_MEMORY_TYPE_UC     (1ull << 8)
#define EPT_CAP_MEMORY_TYPE_WB     (1ull << 14)
#define EPT_CAP_PAGE_2M            (1ull << 16)
#define EPT_CAP_PAGE_1G            (1ull << 17)
#define EPT_CAP_INVEPT             (1ull << 20)
#define EPT_CAP_ACCESSED_DIRTY     (1ull << 21)
#define EPT_CAP_ADVANCED_EXIT_INFO (1ull << 22)
#define EPT_CAP_SHADOW_STACK       (1ull << 23)
#define EPT_CAP_INVEPT_SINGLE      (1ull << 25)
#define EPT_CAP_INVEPT_ALL         (1ull << 26)
#define VPID_CAP_INVVPID           (1ull << 32)
#define VPID_CAP_INDIVIDUAL        (1ull << 40)
#define VPID_CAP_SINGLE            (1ull << 41)
#define VPID_CAP_ALL               (1ull << 42)
#define VPID_CAP_SINGLE_RETAINING  (1ull << 43)

// IA32_VMX_VMFUNC, and the VM-function controls
#define VMFUNC_EPTP_SWITCHING (1ull << 0)

// IA32_VMX_MISC
#define MISC_STORES_LMA             (1ull << 5)
#define MISC_ACTIVITY_HLT           (1ull << 6)
#define MISC_ACTIVITY_SHUTDOWN      (1ull << 7)
#define MISC_ACTIVITY_WAIT_FOR_SIPI (1ull << 8)
#define MISC_CR3_TARGET_SHIFT       16
#define MISC_VMWRITE_ANY_FIELD      (1ull << 29)
#define MISC_INJECT_LENGTH_0        (1ull << 30)

#endif
