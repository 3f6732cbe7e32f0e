// SPDX-License-Identifier: MIT
// ACPI specification: ACPI Software Programming Model. Tables above 4 GiB are out of reach at this moment.
#include "acpi.h"

#include "direct_map.h"
#include "log.h"
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
#define FADT_DSDT         40
#define FADT_X_DSDT       140
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

// Its checksum may be wrong.
static struct table *any_table_at(uint64_t physical)
{
    if (physical == 0 || physical > DIRECT_MAP_EARLY - sizeof(struct table))
        return NULL;
    struct table *table = direct_map(physical);
    if (table->length < sizeof(*table) || table->length > DIRECT_MAP_EARLY - physical)
        return NULL;
    return table;
}

static const struct table *table_at(uint64_t physical)
{
    const struct table *table = any_table_at(physical);
    return table != NULL && checksum_is_good(table, table->length) ? table : NULL;
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

static void hide_in_table(struct table *table, const char *signature, struct acpi_sleep *sleep)
{
    if (table == NULL || memcmp(table->signature, signature, 4) != 0 ||
        acpi_sleep_hide((uint8_t *)(table + 1), table->length - sizeof(*table), sleep) == 0)
        return;
    acpi_sleep_correct_checksum((uint8_t *)table, table->length);
    if (!checksum_is_good(table, table->length))
        log_line("ACPI: the table at %lx cannot be changed: L1 finds the sleep states S1 to S3 there",
                 direct_map_physical(table));
}

// Systems take a DSDT or SSDT whatever its checksum is.
static void hide_sleep_states(const struct rsdp *rsdp, struct table *fadt, struct acpi_sleep *sleep)
{
    uint8_t *bytes = (uint8_t *)fadt;
    if (acpi_sleep_read_fadt(bytes, fadt->length, sleep))
        acpi_sleep_correct_checksum(bytes, fadt->length);
    if (fadt->length >= FADT_DSDT + 4)
        hide_in_table(any_table_at(read_little_endian(bytes + FADT_DSDT, 4)), "DSDT", sleep);
    if (fadt->length >= FADT_X_DSDT + 8)
        hide_in_table(any_table_at(read_little_endian(bytes + FADT_X_DSDT, 8)), "DSDT", sleep);
    for (unsigned extended = 0; extended < 2; extended++) {
        const struct table *root = table_at(extended ? (rsdp->revision >= 2 ? rsdp->xsdt : 0) : rsdp->rsdt);
        size_t width = extended ? 8 : 4, count = root != NULL ? (root->length - sizeof(*root)) / width : 0;
        for (size_t i = 0; i < count; i++) {
            const uint8_t *entry = (const uint8_t *)(root + 1) + i * width;
            hide_in_table(any_table_at(read_little_endian(entry, width)), "SSDT", sleep);
        }
    }
    if (sleep->in_memory)
        log_line(
            "ACPI: a sleep register is in memory: L0 does not see when L1 switches the machine off there");
}

const char *acpi_read(const void *rsdp_copy, struct acpi_info *info)
{
    info->rsdp = find_rsdp();
    const struct rsdp *rsdp = info->rsdp != 0 ? direct_map(info->rsdp) : rsdp_copy;
    if (rsdp == NULL || !rsdp_is_good(rsdp))
        return "there is no ACPI on this machine";
    info->oem_is_bochs = memcmp(rsdp->oem_id, "BOCHS ", 6) == 0;

    const struct table *fadt = find_table(rsdp, "FACP");
    if (fadt != NULL)
        hide_sleep_states(rsdp, any_table_at(direct_map_physical(fadt)), &info->sleep);
    const struct table *madt = find_table(rsdp, "APIC");
    if (madt == NULL)
        return "ACPI has no MADT, which lists the processors";
    return read_madt(madt, info);
}
