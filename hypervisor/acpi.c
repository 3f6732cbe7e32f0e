// SPDX-License-Identifier: MIT
// ACPI specification: ACPI Software Programming Model. Tables above 4 GiB are out of reach at this moment.
#include "acpi.h"

#include "direct_map.h"
#include "string.h"

struct rsdp {
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
} __attribute__((packed));

struct table {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

#define RSDP_V1_SIZE 20
#define RSDP_V2_SIZE 36

// Offsets in the FADT and the MADT, from the start of the table.
#define FADT_PM1A_CONTROL 64
#define FADT_PM1B_CONTROL 68
#define MADT_ENTRIES      44
#define MADT_LOCAL_APIC   0
#define MADT_LOCAL_X2APIC 9
#define MADT_ENABLED      1u

static bool checksum_is_good(const void *data, uint64_t size)
{
    const uint8_t *bytes = data;
    uint8_t sum = 0;
    for (uint64_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum == 0;
}

static bool rsdp_is_good(const struct rsdp *rsdp)
{
    return memcmp(rsdp->signature, "RSD PTR ", 8) == 0 && checksum_is_good(rsdp, RSDP_V1_SIZE);
}

static uint64_t scan_for_rsdp(uint64_t start, uint64_t end)
{
    for (uint64_t at = start; at + RSDP_V2_SIZE <= end; at += 16)
        if (rsdp_is_good(direct_map(at)))
            return at;
    return 0;
}

// Finding the RSDP on IA-PC Systems.
static uint64_t find_rsdp(void)
{
    uint64_t ebda = (uint64_t) * (const uint16_t *)direct_map(0x40e) << 4;
    uint64_t found = 0;
    if (ebda >= 0x80000 && ebda < 0xa0000)
        found = scan_for_rsdp(ebda, ebda + 1024);
    return found != 0 ? found : scan_for_rsdp(0xe0000, 0x100000);
}

static const struct table *table_at(uint64_t physical)
{
    if (physical == 0 || physical + sizeof(struct table) > DIRECT_MAP_EARLY)
        return NULL;
    const struct table *table = direct_map(physical);
    if (table->length < sizeof(*table) || physical + table->length > DIRECT_MAP_EARLY ||
        !checksum_is_good(table, table->length))
        return NULL;
    return table;
}

static uint64_t read_little_endian(const void *from, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, from, size);
    return value;
}

static const struct table *find_table(const struct rsdp *rsdp, const char *signature)
{
    const struct table *root = NULL;
    size_t width = 8;
    if (rsdp->revision >= 2)
        root = table_at(rsdp->xsdt);
    if (root == NULL) {
        root = table_at(rsdp->rsdt);
        width = 4;
    }
    if (root == NULL)
        return NULL;
    const uint8_t *entries = (const uint8_t *)(root + 1);
    for (size_t i = 0; i < (root->length - sizeof(*root)) / width; i++) {
        const struct table *table = table_at(read_little_endian(entries + i * width, width));
        if (table != NULL && memcmp(table->signature, signature, 4) == 0)
            return table;
    }
    return NULL;
}

static void add_cpu(struct acpi_info *info, uint32_t apic_id, uint32_t flags, uint32_t *dropped)
{
    if ((flags & MADT_ENABLED) == 0)
        return;
    for (uint32_t i = 0; i < info->cpu_count; i++)
        if (info->apic_id[i] == apic_id)
            return; // some firmware lists a processor as local APIC and as x2APIC
    if (info->cpu_count == ACPI_CPU_MAX)
        (*dropped)++;
    else
        info->apic_id[info->cpu_count++] = apic_id;
}

static const char *read_madt(const struct table *madt, struct acpi_info *info)
{
    const uint8_t *bytes = (const uint8_t *)madt;
    uint32_t dropped = 0;
    for (uint32_t at = MADT_ENTRIES; at + 2 <= madt->length && bytes[at + 1] >= 2; at += bytes[at + 1]) {
        if (at + bytes[at + 1] > madt->length)
            break;
        if (bytes[at] == MADT_LOCAL_APIC && bytes[at + 1] >= 8)
            add_cpu(info, bytes[at + 3], (uint32_t)read_little_endian(bytes + at + 4, 4), &dropped);
        if (bytes[at] == MADT_LOCAL_X2APIC && bytes[at + 1] >= 16)
            add_cpu(info, (uint32_t)read_little_endian(bytes + at + 4, 4),
                    (uint32_t)read_little_endian(bytes + at + 8, 4), &dropped);
    }
    if (dropped != 0)
        return "this machine has more logical processors than L0 supports (64)";
    return info->cpu_count == 0 ? "ACPI's MADT lists no processor" : NULL;
}

const char *acpi_read(const void *rsdp_copy, struct acpi_info *info)
{
    info->rsdp = find_rsdp();
    const struct rsdp *rsdp = info->rsdp != 0 ? direct_map(info->rsdp) : rsdp_copy;
    if (rsdp == NULL || !rsdp_is_good(rsdp))
        return "there is no ACPI on this machine";
    info->oem_is_bochs = memcmp(rsdp->oem_id, "BOCHS ", 6) == 0;

    const struct table *fadt = find_table(rsdp, "FACP");
    if (fadt != NULL && fadt->length >= FADT_PM1B_CONTROL + 4) {
        const uint8_t *bytes = (const uint8_t *)fadt;
        info->pm1a_control = (uint16_t)read_little_endian(bytes + FADT_PM1A_CONTROL, 4);
        info->pm1b_control = (uint16_t)read_little_endian(bytes + FADT_PM1B_CONTROL, 4);
    }
    const struct table *madt = find_table(rsdp, "APIC");
    if (madt == NULL)
        return "ACPI has no MADT, which lists the processors";
    return read_madt(madt, info);
}
