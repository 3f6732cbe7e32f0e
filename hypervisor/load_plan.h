// SPDX-License-Identifier: MIT
// What the L1 loaders share: a plan of where everything goes, made and checked before the first byte moves.
#ifndef PLASTRON_LOAD_PLAN_H
#define PLASTRON_LOAD_PLAN_H

#include "load.h"

#define LOAD_PIECES_MAX  192u
#define LOAD_MODULES_MAX 64u
#define LOAD_RANGES_MAX  160u
#define LOAD_PAGE        4096u
#define LOAD_4G          0x100000000u
#define LOAD_1M          0x100000u
#define LOAD_LOW_START   0x10000u // below lie the firmware's data and what kernels like for their trampolines
#define LOAD_LOW_END     0xa0000u

enum load_piece_kind {
    PIECE_FILE,  // bytes of a module, then zeros
    PIECE_BUILT, // written by the loader itself after the moves; zeroed until then
    PIECE_KEPT,  // L1 will use it before it looks at the memory map; kept free, never written
    PIECE_STAGE, // a module waits here while its old place is overwritten
};

struct load_piece {
    enum load_piece_kind kind;
    uint64_t start, size;
    uint32_t module;         // PIECE_FILE, PIECE_STAGE: whose bytes
    uint64_t offset, length; // PIECE_FILE: which of its bytes
};

struct load_plan {
    const struct l1_load_request *request;
    uint32_t map_count;
    struct memory_range map[LOAD_RANGES_MAX]; // what L1 is told: the request's map less the page for the BIOS
    uint64_t bios_page;                       // 0: there is none
    uint32_t piece_count;
    struct load_piece pieces[LOAD_PIECES_MAX]; // they do not overlap, and all lie in RAM of the request's map
    uint64_t module_start[LOAD_MODULES_MAX];   // where a module's bytes are when pieces are filled
};

// A module's bytes, for reading.
struct load_file {
    const uint8_t *bytes;
    uint64_t size;
};

// Fills request->refusal. Always returns false, so that a planner can end with it. Knows %s, %lu and %#lx.
bool load_refuse(const struct l1_load_request *request, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// Refuses if a module is not wholly in RAM, or if there are too many modules or memory ranges.
bool plan_begin(struct load_plan *plan, const struct l1_load_request *request);

struct load_file plan_file(const struct load_plan *plan, uint32_t module);

bool plan_is_ram(const struct load_plan *plan, uint64_t start, uint64_t size);

// The end of the unbroken RAM from start on; start itself if that is no RAM.
uint64_t plan_ram_end(const struct load_plan *plan, uint64_t start);

// Adds a piece where it must be. `what` and `number` name it in the refusal ("ELF segment", 2).
bool plan_add_fixed(struct load_plan *plan, struct load_piece piece, const char *what, uint64_t number);

// True if a piece could be added there.
bool plan_fits(const struct load_plan *plan, uint64_t start, uint64_t size);

// Finds a free place in [from, to) and adds the piece there; sets *start. Returns false, without a refusal,
// if there is none. align is a power of two. "Aside" is the lowest place where no module lies now, so that
// none has to move.
bool plan_add_lowest(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                     uint64_t to, uint64_t *start);
bool plan_add_highest(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                      uint64_t to, uint64_t *start);
bool plan_add_aside(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                    uint64_t to, uint64_t *start);

// The last step that may refuse: finds a waiting place for each module that a piece would overwrite.
bool plan_finish(struct load_plan *plan);

// Moves the modules and fills the PIECE_FILEs, zeroes the PIECE_BUILTs. Cannot fail.
void plan_commit(struct load_plan *plan);

// Plans the front end of the BIOS's memory calls, if the machine has a BIOS, and takes its page out of the
// map. It is the first piece. commit_bios must be the last to write: it changes an interrupt vector.
void plan_bios(struct load_plan *plan);
void commit_bios(const struct load_plan *plan);

// The text screen that the firmware left, read from the BIOS data area; rows is 0 if there is no such screen.
struct load_screen {
    uint32_t columns, rows, cursor_column, cursor_row, character_height;
};
struct load_screen load_screen_find(const struct load_plan *plan);

// True if the file begins like a Linux kernel for the x86 boot protocol.
bool linux_is_kernel(struct load_file file);
bool linux_load(struct load_plan *plan, struct l1_start_state *start);

// Finds the Multiboot 1 header; false if there is none.
bool multiboot_find_header(struct load_file file, uint64_t *offset);
bool multiboot_load(struct load_plan *plan, uint64_t header, struct l1_start_state *start);

// Plans the segments of an ELF executable (ELF32 or ELF64) by their physical addresses. *entry is physical
// too; *end is the end of the highest segment.
bool elf_is_elf(struct load_file file);
bool elf_plan_segments(struct load_plan *plan, uint64_t *entry, uint64_t *end);

// An ELF image's section headers for L1 to find; count is 0 if there are none.
struct elf_sections {
    uint64_t table; // physical
    uint32_t count, entry_size, names;
    bool is_elf64;
    uint64_t moved_by; // from an offset in the file to a physical address, modulo 2^64
};
// Plans one copy, in [from, 4 GiB), of the part of the file that holds the section headers and the sections
// which no segment loads. Refuses if they are not all in the file: it is truncated. Without room, count
// becomes 0.
bool elf_plan_sections(struct load_plan *plan, uint64_t from, struct elf_sections *sections);
// Makes the copied headers say where the copied sections are.
void elf_commit_sections(const struct load_plan *plan, const struct elf_sections *sections);

// The flat GDT as Linux's boot protocol wants it and GRUB has it.
enum {
    LOAD_CODE_SELECTOR = 0x10,
    LOAD_DATA_SELECTOR = 0x18,
    LOAD_GDT_SIZE = 0x20,
};
// Writes the GDT at the physical address and sets the segment registers, GDTR, IDTR, TR and LDTR.
void load_set_segments(const struct load_plan *plan, struct l1_start_state *start, uint64_t gdt,
                       bool code_is_64bit);

static inline uint64_t load_round_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

static inline bool load_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a_size && b_size && a < b + b_size && b < a + a_size;
}

// Little-endian fields at any alignment. The caller has checked that they are there.
static inline uint16_t load_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}
static inline uint32_t load_get32(const uint8_t *at)
{
    return load_get16(at) | (uint32_t)load_get16(at + 2) << 16;
}
static inline uint64_t load_get64(const uint8_t *at)
{
    return load_get32(at) | (uint64_t)load_get32(at + 4) << 32;
}
static inline void load_put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}
static inline void load_put32(uint8_t *at, uint32_t value)
{
    load_put16(at, (uint16_t)value);
    load_put16(at + 2, (uint16_t)(value >> 16));
}
static inline void load_put64(uint8_t *at, uint64_t value)
{
    load_put32(at, (uint32_t)value);
    load_put32(at + 4, (uint32_t)(value >> 32));
}

#endif
