// SPDX-License-Identifier: MIT
// Constants that the assembly files share with C.
#ifndef PLASTRON_BOOT_H
#define PLASTRON_BOOT_H

#define IMAGE_OFFSET    0xffffffff80000000
#define CPU_STACK_SIZE  32768
#define EXCEPTION_COUNT 32

// The same in the early GDT, in every processor's own, and in the trampoline's.
#define SELECTOR_CODE 0x08
#define SELECTOR_DATA 0x10
#define SELECTOR_TSS  0x18

#endif
