// SPDX-License-Identifier: MIT
// The segments and sections of an ELF executable, 32-bit or 64-bit, by physical address.
#include "load_plan.h"

#define ELF_MAGIC     0x464c457fu
#define EM_386        3u
#define EM_X86_64     62u
#define ET_EXEC       2u
#define PT_LOAD       1u
#define SHT_NULL      0u
#define SHT_NOBITS    8u
#define SHF_ALLOC     2u
#define ELF32_HEADER  52u
#define ELF64_HEADER  64u
#define ELF32_SEGMENT 32u
#define ELF64_SEGMENT 56u
#define ELF32_SECTION 40u
#define ELF64_SECTION 64u

struct elf_header {
    bool is_elf64;
    uint64_t entry, segments, sections; // the last two: offsets of the tables in the file
    uint32_t type, machine, segment_size, segment_count, section_size, section_count, names;
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, virtual_start, physical_start, file_size, memory_size;
};

struct elf_section {
    uint32_t type;
    uint64_t flags, offset, size;
};

bool elf_is_elf(struct load_file file)
{
    return file.size >= 4 && load_get32(file.bytes) == ELF_MAGIC;
}

// The file is known to hold as many bytes as the header has.
static struct elf_header read_header(struct load_file file)
{
    const uint8_t *at = file.bytes;
    bool is_elf64 = at[4] == 2;
    const uint8_t *tail = at + (is_elf64 ? 52 : 40); // from e_ehsize on, both are alike
    return (struct elf_header){
        .is_elf64 = is_elf64,
        .type = load_get16(at + 16),
        .machine = load_get16(at + 18),
        .entry = is_elf64 ? load_get64(at + 24) : load_get32(at + 24),
        .segments = is_elf64 ? load_get64(at + 32) : load_get32(at + 28),
        .sections = is_elf64 ? load_get64(at + 40) : load_get32(at + 32),
        .segment_size = load_get16(tail + 2),
        .segment_count = load_get16(tail + 4),
        .section_size = load_get16(tail + 6),
        .section_count = load_get16(tail + 8),
        .names = load_get16(tail + 10),
    };
}

static struct elf_segment read_segment(struct load_file file, const struct elf_header *header, uint32_t index)
{
    const uint8_t *at = file.bytes + header->segments + (uint64_t)index * header->segment_size;
    if (header->is_elf64)
        return (struct elf_segment){
            .type = load_get32(at),
            .offset = load_get64(at + 8),
            .virtual_start = load_get64(at + 16),
            .physical_start = load_get64(at + 24),
            .file_size = load_get64(at + 32),
            .memory_size = load_get64(at + 40),
        };
    return (struct elf_segment){
        .type = load_get32(at),
        .offset = load_get32(at + 4),
        .virtual_start = load_get32(at + 8),
        .physical_start = load_get32(at + 12),
        .file_size = load_get32(at + 16),
        .memory_size = load_get32(at + 20),
    };
}

static struct elf_section read_section(const uint8_t *at, bool is_elf64)
{
    if (is_elf64)
        return (struct elf_section){
            .type = load_get32(at + 4),
            .flags = load_get64(at + 8),
            .offset = load_get64(at + 24),
            .size = load_get64(at + 32),
        };
    return (struct elf_section){
        .type = load_get32(at + 4),
        .flags = load_get32(at + 8),
        .offset = load_get32(at + 16),
        .size = load_get32(at + 20),
    };
}

static bool is_in_file(struct load_file file, uint64_t offset, uint64_t size)
{
    return offset <= file.size && size <= file.size - offset;
}

static bool check_header(const struct l1_load_request *request, struct load_file file)
{
    if (file.size < ELF32_HEADER || (file.bytes[4] == 2 && file.size < ELF64_HEADER))
        return load_refuse(request, "the ELF image is truncated: %lu bytes do not hold its header",
                           file.size);
    if ((file.bytes[4] != 1 && file.bytes[4] != 2) || file.bytes[5] != 1)
        return load_refuse(request, "the ELF image is broken: class %lu, data encoding %lu",
                           (uint64_t)file.bytes[4], (uint64_t)file.bytes[5]);
    struct elf_header header = read_header(file);
    if (header.machine != EM_386 && header.machine != EM_X86_64)
        return load_refuse(request, "the ELF image is for another processor (machine %lu)",
                           (uint64_t)header.machine);
    if (header.type != ET_EXEC)
        return load_refuse(request, "the ELF image is no executable with fixed addresses (type %lu)",
                           (uint64_t)header.type);
    if (header.segment_count == 0)
        return load_refuse(request, "the ELF image has no program headers");
    if (header.segment_size < (header.is_elf64 ? ELF64_SEGMENT : ELF32_SEGMENT))
        return load_refuse(request, "the ELF image is broken: its program headers have %lu bytes each",
                           (uint64_t)header.segment_size);
    if (!is_in_file(file, header.segments, (uint64_t)header.segment_count * header.segment_size))
        return load_refuse(
            request, "the ELF image is truncated: its program headers lie beyond its %lu bytes", file.size);
    return true;
}

static bool plan_segment(struct load_plan *plan, struct load_file file, const struct elf_segment *segment,
                         uint32_t index)
{
    const struct l1_load_request *request = plan->request;
    if (segment->file_size > segment->memory_size)
        return load_refuse(request,
                           "ELF segment %lu of the L1 image has %#lx bytes in the file, but %#lx in memory",
                           (uint64_t)index, segment->file_size, segment->memory_size);
    if (!is_in_file(file, segment->offset, segment->file_size))
        return load_refuse(request, "the ELF image is truncated: segment %lu lies beyond its %lu bytes",
                           (uint64_t)index, file.size);
    if (segment->physical_start >= LOAD_4G || segment->memory_size > LOAD_4G - segment->physical_start)
        return load_refuse(request,
                           "ELF segment %lu of the L1 image (%#lx, %#lx bytes) does not lie below 4 GiB",
                           (uint64_t)index, segment->physical_start, segment->memory_size);
    struct load_piece piece = {.kind = PIECE_FILE,
                               .start = segment->physical_start,
                               .size = segment->memory_size,
                               .offset = segment->offset,
                               .length = segment->file_size};
    return plan_add_fixed(plan, piece, "ELF segment", index);
}

// The entry point is a virtual address by ELF's rules; linkers of kernels also write the physical one. Either
// way it must be in bytes that the file holds: in zeroed memory there is nothing to run.
static bool find_entry(struct load_file file, const struct elf_header *header, uint64_t *entry)
{
    for (int as_physical = 0; as_physical <= 1; as_physical++) {
        for (uint32_t i = 0; i < header->segment_count; i++) {
            struct elf_segment segment = read_segment(file, header, i);
            uint64_t base = as_physical ? segment.physical_start : segment.virtual_start;
            if (segment.type == PT_LOAD && header->entry >= base &&
                header->entry - base < segment.file_size) {
                *entry = header->entry - base + segment.physical_start;
                return true;
            }
        }
    }
    return false;
}

bool elf_plan_segments(struct load_plan *plan, uint64_t *entry, uint64_t *end)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    if (!check_header(request, file))
        return false;
    struct elf_header header = read_header(file);
    *end = 0;
    for (uint32_t i = 0; i < header.segment_count; i++) {
        struct elf_segment segment = read_segment(file, &header, i);
        if (segment.type != PT_LOAD || segment.memory_size == 0)
            continue;
        if (!plan_segment(plan, file, &segment, i))
            return false;
        if (segment.physical_start + segment.memory_size > *end)
            *end = segment.physical_start + segment.memory_size;
    }
    if (*end == 0)
        return load_refuse(request, "the ELF image has no segment to load");
    if (!find_entry(file, &header, entry))
        return load_refuse(request, "the entry point of the ELF image, %#lx, is in none of its segments",
                           header.entry);
    return true;
}

static bool is_in_no_segment(const struct elf_section *section)
{
    return section->type != SHT_NULL && section->type != SHT_NOBITS && !(section->flags & SHF_ALLOC) &&
           section->size;
}

// The part of the file, [*low, *high), that holds the headers and every section that no segment loads.
static bool find_unloaded(const struct l1_load_request *request, struct load_file file,
                          const struct elf_header *header, uint64_t *low, uint64_t *high)
{
    *low = header->sections;
    *high = header->sections + (uint64_t)header->section_count * header->section_size;
    for (uint32_t i = 0; i < header->section_count; i++) {
        const uint8_t *at = file.bytes + header->sections + (uint64_t)i * header->section_size;
        struct elf_section section = read_section(at, header->is_elf64);
        if (section.type == SHT_NULL || section.type == SHT_NOBITS)
            continue;
        if (!is_in_file(file, section.offset, section.size))
            return load_refuse(request, "the ELF image is truncated: section %lu lies beyond its %lu bytes",
                               (uint64_t)i, file.size);
        if (!is_in_no_segment(&section))
            continue;
        *low = section.offset < *low ? section.offset : *low;
        *high = section.offset + section.size > *high ? section.offset + section.size : *high;
    }
    return true;
}

bool elf_plan_sections(struct load_plan *plan, uint64_t from, struct elf_sections *sections)
{
    const struct l1_load_request *request = plan->request;
    struct load_file file = plan_file(plan, 0);
    struct elf_header header = read_header(file);
    uint64_t low, high, start;
    *sections = (struct elf_sections){0};
    if (header.section_count == 0)
        return true;
    if (header.section_size < (header.is_elf64 ? ELF64_SECTION : ELF32_SECTION))
        return load_refuse(request, "the ELF image is broken: its section headers have %lu bytes each",
                           (uint64_t)header.section_size);
    if (!is_in_file(file, header.sections, (uint64_t)header.section_count * header.section_size))
        return load_refuse(
            request, "the ELF image is truncated: its section headers lie beyond its %lu bytes", file.size);
    if (!find_unloaded(request, file, &header, &low, &high))
        return false;
    low &= ~(uint64_t)(LOAD_PAGE - 1); // whole pages, so that the sections keep their alignment
    struct load_piece piece = {.kind = PIECE_FILE, .size = high - low, .offset = low, .length = high - low};
    if (!plan_add_aside(plan, piece, LOAD_PAGE, from, LOAD_4G, &start))
        return true;
    *sections = (struct elf_sections){
        .table = header.sections - low + start,
        .count = header.section_count,
        .entry_size = header.section_size,
        .names = header.names,
        .is_elf64 = header.is_elf64,
        .moved_by = start - low,
    };
    return true;
}

void elf_commit_sections(const struct load_plan *plan, const struct elf_sections *sections)
{
    for (uint32_t i = 0; i < sections->count; i++) {
        uint8_t *at = plan->request->memory + sections->table + (uint64_t)i * sections->entry_size;
        struct elf_section section = read_section(at, sections->is_elf64);
        if (!is_in_no_segment(&section))
            continue;
        if (sections->is_elf64)
            load_put64(at + 16, section.offset + sections->moved_by); // sh_addr
        else
            load_put32(at + 12, (uint32_t)(section.offset + sections->moved_by));
    }
}
