// SPDX-License-Identifier: MIT
// Loads L1's image: a Linux bzImage (64-bit boot protocol) or a Multiboot 1 kernel, told apart by their
// magic.
//
// The loader is plain C over memory that it is given: no hardware, no allocation, no libc but memcpy,
// memmove, memset and memcmp. The same sources run in the image and, under sanitizers, in host tests.
//
// It decides before it does: every placement is computed and checked first, and a refusal leaves all memory
// as it was. Afterwards the modules' old places are ordinary RAM of L1.
#ifndef PLASTRON_LOAD_H
#define PLASTRON_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum memory_range_type {
    MEMORY_RAM = 1, // the other types are E820's and are passed on to L1 as they are
    MEMORY_RESERVED = 2,
};

// A range of L1's physical addresses; end is exclusive.
struct memory_range {
    uint64_t start, end;
    uint32_t type;
};

// A file that the boot loader put into memory.
struct l1_module {
    uint64_t start, size; // physical; size in bytes; anywhere in RAM
    const char *string;   // the text after the file name; not NULL; outside every memory range of type RAM
};

struct l1_load_request {
    uint8_t *memory; // where physical address 0 is mapped; all RAM of the map must be reachable from here
    const struct memory_range *map; // sorted, not overlapping; what belongs to L0 is not MEMORY_RAM in it
    uint32_t map_count;
    const struct l1_module *modules; // [0] is L1's image, and its string L1's command line
    uint32_t module_count;
    uint64_t rsdp; // physical address of ACPI's root pointer; 0 if it is not known
    char *refusal; // receives one clear sentence, terminated, when l1_load returns false
    size_t refusal_size;
};

// A segment register in the VMCS's format.
struct l1_segment {
    uint16_t selector;
    uint32_t access_rights, limit;
    uint64_t base;
};

// The processor that the boot protocol promises to L1. What is not here is as after INIT. CR0, CR4 and EFER
// are what L1 shall see; bits that VMX operation demands besides (CR0.NE, CR4.VMXE) are the caller's to add.
struct l1_start_state {
    const char *kind; // "Linux 64-bit boot protocol" or "Multiboot 1 ELF" or "Multiboot 1 flat"
    uint64_t rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, cr0, cr3, cr4, efer;
    struct l1_segment cs, ds, es, fs, gs, ss, tr, ldtr;
    uint64_t gdtr_base, idtr_base;
    uint32_t gdtr_limit, idtr_limit;
};

// Places L1's image and modules in L1's RAM and says how L1's bootstrap processor starts. Returns false, with
// request->refusal filled and no memory changed, if the image cannot be loaded. Reads and writes only memory
// that the map calls RAM, and the modules.
bool l1_load(const struct l1_load_request *request, struct l1_start_state *start);

#endif
