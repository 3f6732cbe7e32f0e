// SPDX-License-Identifier: MIT
// Small images made by hand, complete enough for a loader.
#include "world.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#define MULTIBOOT_MAGIC 0x1badb002u
#define VIRTUAL_OFFSET  0xc0000000u

struct image image_noise(uint64_t size)
{
    struct image image = {.bytes = malloc(size ? size : 1), .size = size};
    uint64_t noise = 0x9e3779b97f4a7c15 ^ size;
    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = noise_next(&noise);
        memcpy(image.bytes + i, &word, size - i < 8 ? size - i : 8);
    }
    return image;
}

struct image image_copy(struct image image)
{
    struct image copy = {.bytes = malloc(image.size ? image.size : 1), .size = image.size};
    memcpy(copy.bytes, image.bytes, image.size);
    return copy;
}

struct image image_linux(void)
{
    struct image image = image_noise((LINUX_SECTS + 1) * 512 + LINUX_CODE_SIZE + 100); // as if signed
    uint8_t *at = image.bytes;
    memset(at, 0, 0x400);
    at[0x1f1] = LINUX_SECTS;
    put32(at + 0x1f4, LINUX_CODE_SIZE / 16);
    put16(at + 0x1fe, 0xaa55);
    put16(at + 0x200, 0x6aeb); // jmp; the header ends at 0x26c
    memcpy(at + 0x202, "HdrS", 4);
    put16(at + 0x206, 0x20f);
    at[0x211] = 0x81; // LOADED_HIGH, CAN_USE_HEAP
    put32(at + 0x22c, 0x7fffffff);
    put32(at + 0x230, 0x1000);
    at[0x234] = 1;
    put16(at + 0x236, 1); // XLF_KERNEL_64
    put32(at + 0x238, 100);
    put32(at + 0x248, 0x2cc); // payload_offset: passed on
    put64(at + 0x258, LINUX_PREF);
    put32(at + 0x260, LINUX_INIT_SIZE);
    return image;
}

static void put_multiboot_header(uint8_t *at, uint32_t flags)
{
    put32(at, MULTIBOOT_MAGIC);
    put32(at + 4, flags);
    put32(at + 8, 0u - MULTIBOOT_MAGIC - flags);
}

static const struct {
    uint32_t type, flags, address, offset, size;
} elf_sections[] = {
    {SHT_NULL, 0, 0, 0, 0},
    {SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, ELF_TEXT, ELF_TEXT_OFFSET, ELF_TEXT_SIZE},
    {SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, ELF_DATA, ELF_DATA_OFFSET, ELF_DATA_SIZE},
    {SHT_NOBITS, SHF_ALLOC | SHF_WRITE, ELF_DATA + ELF_DATA_SIZE, 0x7fffff00,
     ELF_DATA_MEMORY - ELF_DATA_SIZE},
    {SHT_PROGBITS, 0, 0, ELF_DEBUG_OFFSET, ELF_DEBUG_SIZE},
    {SHT_STRTAB, 0, 0, ELF_DEBUG_OFFSET + ELF_DEBUG_SIZE, 0x40},
};
#define SECTIONS (sizeof elf_sections / sizeof *elf_sections)

static const struct {
    uint32_t type, offset, address, file_size, memory_size;
} elf_segments[] = {
    {PT_LOAD, ELF_TEXT_OFFSET, ELF_TEXT, ELF_TEXT_SIZE, ELF_TEXT_SIZE},
    {PT_NOTE, ELF_TEXT_OFFSET, ELF_TEXT, 0x20, 0x20},
    {PT_LOAD, ELF_DATA_OFFSET, ELF_DATA, ELF_DATA_SIZE, ELF_DATA_MEMORY},
    {PT_LOAD, 0, 0, 0, 0},
};
#define SEGMENTS (sizeof elf_segments / sizeof *elf_segments)

static void put_elf64(uint8_t *bytes)
{
    Elf64_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = VIRTUAL_OFFSET + ELF_ENTRY,
        .e_phoff = sizeof header,
        .e_shoff = ELF_SECTIONS_OFFSET,
        .e_ehsize = sizeof header,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = SEGMENTS,
        .e_shentsize = sizeof(Elf64_Shdr),
        .e_shnum = SECTIONS,
        .e_shstrndx = SECTIONS - 1,
    };
    memcpy(bytes, &header, sizeof header);
    for (size_t i = 0; i < SEGMENTS; i++) {
        Elf64_Phdr segment = {
            .p_type = elf_segments[i].type,
            .p_offset = elf_segments[i].offset,
            .p_vaddr = (uint64_t)VIRTUAL_OFFSET + elf_segments[i].address,
            .p_paddr = elf_segments[i].address,
            .p_filesz = elf_segments[i].file_size,
            .p_memsz = elf_segments[i].memory_size,
        };
        memcpy(bytes + sizeof header + i * sizeof segment, &segment, sizeof segment);
    }
    for (size_t i = 0; i < SECTIONS; i++) {
        Elf64_Shdr section = {
            .sh_type = elf_sections[i].type,
            .sh_flags = elf_sections[i].flags,
            .sh_addr = elf_sections[i].address,
            .sh_offset = elf_sections[i].offset,
            .sh_size = elf_sections[i].size,
        };
        memcpy(bytes + ELF_SECTIONS_OFFSET + i * sizeof section, &section, sizeof section);
    }
}

static void put_elf32(uint8_t *bytes)
{
    Elf32_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_386,
        .e_version = EV_CURRENT,
        .e_entry = VIRTUAL_OFFSET + ELF_ENTRY,
        .e_phoff = sizeof header,
        .e_shoff = ELF_SECTIONS_OFFSET,
        .e_ehsize = sizeof header,
        .e_phentsize = sizeof(Elf32_Phdr),
        .e_phnum = SEGMENTS,
        .e_shentsize = sizeof(Elf32_Shdr),
        .e_shnum = SECTIONS,
        .e_shstrndx = SECTIONS - 1,
    };
    memcpy(bytes, &header, sizeof header);
    for (size_t i = 0; i < SEGMENTS; i++) {
        Elf32_Phdr segment = {
            .p_type = elf_segments[i].type,
            .p_offset = elf_segments[i].offset,
            .p_vaddr = VIRTUAL_OFFSET + elf_segments[i].address,
            .p_paddr = elf_segments[i].address,
            .p_filesz = elf_segments[i].file_size,
            .p_memsz = elf_segments[i].memory_size,
        };
        memcpy(bytes + sizeof header + i * sizeof segment, &segment, sizeof segment);
    }
    for (size_t i = 0; i < SECTIONS; i++) {
        Elf32_Shdr section = {
            .sh_type = elf_sections[i].type,
            .sh_flags = elf_sections[i].flags,
            .sh_addr = elf_sections[i].address,
            .sh_offset = elf_sections[i].offset,
            .sh_size = elf_sections[i].size,
        };
        memcpy(bytes + ELF_SECTIONS_OFFSET + i * sizeof section, &section, sizeof section);
    }
}

struct image image_elf(enum elf_file bits)
{
    uint64_t entry = bits == ELF_FILE_64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
    struct image image = image_noise(ELF_SECTIONS_OFFSET + SECTIONS * entry);
    if (bits == ELF_FILE_64)
        put_elf64(image.bytes);
    else
        put_elf32(image.bytes);
    put_multiboot_header(image.bytes + ELF_HEADER_OFFSET, 3);
    return image;
}

struct image image_flat(void)
{
    struct image image = image_noise(FLAT_SIZE + 0x10);
    uint8_t *at = image.bytes + FLAT_HEADER_OFFSET;
    put_multiboot_header(at, 0x10003);
    put32(at + 12, FLAT_LOAD + FLAT_HEADER_OFFSET - 0x10); // the file's first 16 bytes are not loaded
    put32(at + 16, FLAT_LOAD);
    put32(at + 20, FLAT_LOAD + FLAT_SIZE);
    put32(at + 24, FLAT_LOAD + FLAT_SIZE + FLAT_BSS);
    put32(at + 28, FLAT_LOAD + 0x80);
    return image;
}

void image_move_header(struct image image, uint64_t to)
{
    uint8_t header[12];
    memcpy(header, image.bytes + ELF_HEADER_OFFSET, sizeof header);
    put32(image.bytes + ELF_HEADER_OFFSET, 0);
    memcpy(image.bytes + to, header, sizeof header);
}
