// SPDX-License-Identifier: MIT
// A small machine for the loader tests: physical memory in a block of the host's, with everything that is not
// RAM poisoned while the loader runs, so that touching it ends the test at once.
#ifndef LOADER_TEST_WORLD_H
#define LOADER_TEST_WORLD_H

#include "load.h"

#define WORLD_MODULES 66
#define WORLD_RANGES  170

// The default memory map: low memory, 1 MiB to L0, L0's range, a rest above it.
#define WORLD_SIZE     0x400000u
#define WORLD_LOW_END  0x9fc00u
#define WORLD_BIOS_15  0xf000f859u // segment and offset of its INT 15h
#define WORLD_BASE_KIB 639u
#define WORLD_L0_START 0x380000u
#define WORLD_L0_END   0x3c0000u

struct image {
    uint8_t *bytes;
    uint64_t size;
};

struct world {
    uint8_t *memory, *before; // before: what the memory held when the loader was called
    uint64_t size;
    struct memory_range map[WORLD_RANGES];
    struct l1_module modules[WORLD_MODULES];
    struct image files[WORLD_MODULES]; // copies of the modules, which the loader never sees
    struct l1_load_request request;
    struct l1_start_state start;
    char refusal[240];
    bool has_bios; // an interrupt vector 15h that points into the firmware
};

// A machine with the default map, a BIOS and an 80 x 25 text screen. All memory is noise.
void world_begin(struct world *world);
void world_end(struct world *world);
void world_add_range(struct world *world, uint64_t start, uint64_t end, uint32_t type);

// Puts a file into memory as the boot loader would. The image stays the caller's.
void world_add_module(struct world *world, struct image image, uint64_t at, const char *string);

// Calls the loader. Checks what must hold in any case: nothing outside RAM was touched; after a refusal all
// memory is as it was, and the refusal is one sentence; after a success the memory is what the protocol
// promises.
bool world_load(struct world *world);

// The same, and fails the test unless it loaded, or was refused with a sentence that holds `part`.
void world_must_load(struct world *world);
void world_must_refuse(struct world *world, const char *part);

bool world_is_ram(const struct world *world, uint64_t start, uint64_t size);

// The map that L1 is told: the machine's, but with a BIOS, the last page of low memory and what follows it is
// reserved. *page is the page, 0 if there is none. Returns how many ranges there are.
uint32_t world_told_map(const struct world *world, struct memory_range *map, uint64_t *page);

// What the protocols promise, checked against the machine's own copies of the files.
void check_linux(const struct world *world);
void check_multiboot(const struct world *world);

// Hand-made images; free() the bytes.
enum elf_file { ELF_FILE_32, ELF_FILE_64 };
struct image image_linux(void);
struct image image_elf(enum elf_file bits);
void image_move_header(struct image image, uint64_t to); // the Multiboot header of an ELF image
struct image image_flat(void);
struct image image_noise(uint64_t size);
struct image image_copy(struct image image);

// Where the parts of the hand-made images lie.
enum {
    LINUX_PREF = 0x180000,
    LINUX_INIT_SIZE = 0x28000,
    LINUX_CODE_SIZE = 0x6120,
    LINUX_SECTS = 3,
    ELF_HEADER_OFFSET = 0x1010, // of the Multiboot header
    ELF_TEXT_OFFSET = 0x1000,
    ELF_TEXT_SIZE = 0x1234,
    ELF_DATA_OFFSET = 0x2300,
    ELF_DATA_SIZE = 0x777,
    ELF_DATA_MEMORY = 0x5000,
    ELF_DEBUG_OFFSET = 0x2b01,
    ELF_DEBUG_SIZE = 0x321,
    ELF_SECTIONS_OFFSET = 0x3000,
    ELF_TEXT = 0x110000, // physical
    ELF_DATA = 0x118000,
    ELF_ENTRY = ELF_TEXT + 0x44,
    FLAT_HEADER_OFFSET = 0x20,
    FLAT_SIZE = 0x2345,
    FLAT_BSS = 0x1000,
    FLAT_LOAD = 0x120000,
};

void put16(uint8_t *at, uint64_t value);
void put32(uint8_t *at, uint64_t value);
void put64(uint8_t *at, uint64_t value);
uint64_t get16(const uint8_t *at);
uint64_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);

// Deterministic noise.
uint64_t noise_next(uint64_t *state);

#endif
