// SPDX-License-Identifier: MIT
// Runs code that may do anything, in any mode, and comes back with what became of it. Each processor has its
// own.
//
// L1's memory is mapped identically up to 8 GiB, for CPL 0 only; in it is a window whose pages a test
// chooses.
#ifndef HOSTILE_PROBE_H
#define HOSTILE_PROBE_H

#include "cpu.h"
#include "l2.h"
#include "machine.h"

#define WINDOW       0x70000000ull // linear; the machine must have less memory than that
#define WINDOW_PAGES 16u
#define WINDOW_SENT  0x02
#define PAGE_AT(n)   (WINDOW + (n)*PAGE_SIZE)

enum window_page {      // what each is mapped to; `user`: for CPL 3 too
    PAGE_CODE = 1,      // user
    PAGE_DATA = 2,      // user, and the next one
    PAGE_DATA_2 = 3,    // user; none behind it
    PAGE_NONE = 4,      // not present
    PAGE_READ_ONLY = 5, // user, read-only
    PAGE_KERNEL = 6,
    PAGE_BEFORE_KERNEL = 7, // user
    PAGE_KERNEL_2 = 8,
    PAGE_SENT = 9,  // user, read-only, and nobody changes it: all bytes are WINDOW_SENT
    PAGE_L0 = 10,   // user; L0's memory, or where there is no L0, a hole
    PAGE_HOLE = 11, // user; nothing is there
    PAGE_APIC = 12, // user; the local APIC
    PAGE_KERNEL_CODE = 13,
    PAGE_RESERVED = 14, // user; a reserved bit is set
};

// Selectors beyond those of cpu.h, for compatibility mode: what begins at PAGE_DATA.
#define SELECTOR_LIMITED     0x4bu // 16 bytes, writable, DPL 3
#define SELECTOR_READ_ONLY   0x53u // DPL 3
#define SELECTOR_EXPAND_DOWN 0x63u // from 0x1000 up, DPL 3
#define SELECTOR_ABSENT      0x68u
#define SELECTOR_TSS_32      0x70u
#define SELECTOR_GATE        0x78u // a task gate
#define SELECTOR_LDT         0x80u // and the next

enum probe_mode { PROBE_KERNEL, PROBE_USER, PROBE_KERNEL_32, PROBE_USER_32 };

#define PROBE_RAN      3u   // `vector` of code that came to its end (INT3 stands behind it)
#define PROBE_WATCHDOG 257u // it did not come to an end
#define PROBE_EXITED   256u // it entered an L2, which exited
#define PROBE_LEFT_L2  0x7e72u

struct probe {
    enum probe_mode mode;
    uint64_t gpr[GPR_COUNT]; // in and out
    uint64_t rflags;         // in and out; bit 1 may be missing
    uint64_t ds, es;         // 0: flat ones for the mode
    uint64_t cr3;            // 0: L1's
    const void *code;
    uint32_t size;
    uint64_t at; // 0: it is copied into the window; else what is executed

    uint32_t vector; // out
    uint64_t error_code, cr2, rip;
};

struct probe_cpu { // probe.S knows the offsets of the first ones
    uint64_t active;
    uint64_t saved_rsp;
    uint64_t gpr[GPR_COUNT];
    uint64_t frame[5]; // RIP, CS, RFLAGS, RSP, SS
    uint64_t run_cr3;

    struct cpu *cpu;
    struct probe out;
    uint64_t cr0, cr3, cr4, efer;
    uint64_t turn, turn_seen; // the watchdog's: the number of the run, and of the one it saw last
    uint64_t gdt[18];
};

void space_build(void);             // once, before the first space_use
void space_use(struct cpu *cpu);    // on each processor, after cpu_init and outside VMX operation
uint64_t space_read_only_cr3(void); // as L1's, but only the window and this file's own memory can be written
void *window_memory(enum window_page page); // L1's own way to a page that is RAM

// L1's memory map: the first one is where L0 is (0: there is none), the second a hole.
void space_find(const struct multiboot_information *information);
uint64_t space_l0(void);
uint64_t space_hole(void);

void probe_run(struct cpu *cpu, struct probe *probe);
bool probe_was_run(const struct probe *probe); // it came to its end

// The same as L2's code, in the current VMCS (of l2_create). Returns the exit reason; PROBE_LEFT_L2: L2 took
// an exception, which is in `probe`, or came to its end. ~0: the entry failed.
uint32_t probe_run_in_l2(struct cpu *cpu, struct l2 *l2, struct probe *probe);

// The current VMCS's exits end a probe_run (PROBE_EXITED): code may enter L2.
void probe_catch_exits(struct cpu *cpu);

// NMIs by the 8254, every few ms of emulated time: what does not come to an end is ended.
void probe_watchdog(bool on);

#endif
