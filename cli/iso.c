// SPDX-License-Identifier: MIT
#include "iso.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 2048 };

// Where everything is, in sectors. The two folders' sizes are fixed: they are large enough for ISO_FILES_MAX
// entries.
enum {
    VOLUME_AT = 16, // the standard's choice, like the next one
    BOOT_RECORD_AT = 17,
    END_OF_VOLUMES_AT = 18,
    BOOT_CATALOG_AT = 19,
    LITTLE_PATHS_AT = 20,
    BIG_PATHS_AT = 21,
    ROOT_AT = 22,
    FOLDER_SECTORS = 8,
    FOLDER_AT = ROOT_AT + FOLDER_SECTORS,
    FILES_AT = FOLDER_AT + FOLDER_SECTORS,
    PADDING = 150, // boot loaders read ahead, and a drive fails reads that go past the end
};

static void put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value);
    put16(p + 2, value >> 16);
}

// The format has many numbers twice, in both byte orders.
static void put16_both(uint8_t *p, uint32_t value)
{
    put16(p, value);
    p[2] = p[1];
    p[3] = p[0];
}

static void put32_both(uint8_t *p, uint32_t value)
{
    put32(p, value);
    for (int i = 0; i < 4; i++)
        p[4 + i] = p[3 - i];
}

static uint8_t *sector_of(uint8_t *image, size_t sector)
{
    return image + sector * SECTOR;
}

static uint32_t sectors(uint64_t size)
{
    return (uint32_t)((size + SECTOR - 1) / SECTOR);
}

bool iso_add(struct iso *iso, const char *name, bool in_folder, int fd)
{
    struct stat status;
    if (fstat(fd, &status))
        return false;
    if (status.st_size > UINT32_MAX - SECTOR) {
        errno = EFBIG;
        return false;
    }
    if (iso->file_count == ISO_FILES_MAX || strlen(name) > ISO_NAME_MAX - 2) {
        errno = ENAMETOOLONG;
        return false;
    }
    struct iso_file *file = &iso->files[iso->file_count++];
    *file = (struct iso_file){.in_folder = in_folder, .fd = fd, .size = (uint32_t)status.st_size};
    size_t i = 0;
    for (; name[i]; i++)
        file->name[i] = (char)toupper((unsigned char)name[i]);
    memcpy(file->name + i, ";1", 3); // a version number belongs to the name
    return true;
}

// One directory record; returns its length.
static size_t put_record(uint8_t *p, const char *name, size_t length, uint32_t sector, uint32_t size,
                         bool folder)
{
    size_t total = (33 + length + 1) & ~(size_t)1;
    p[0] = (uint8_t)total;
    put32_both(p + 2, sector);
    put32_both(p + 10, size);
    p[25] = folder ? 2 : 0;
    put16_both(p + 28, 1);
    p[32] = (uint8_t)length;
    memcpy(p + 33, name, length);
    return total;
}

struct record {
    const char *name;
    uint32_t sector, size;
    bool folder;
};

static int compare_records(const void *a, const void *b)
{
    return strcmp(((const struct record *)a)->name, ((const struct record *)b)->name);
}

// A folder's sectors: itself (name 0), its parent (name 1), its content in order of name. No record crosses
// the end of a sector.
static void put_folder(uint8_t *at, uint32_t own_sector, struct record *records, size_t count)
{
    size_t used = put_record(at, "\0", 1, own_sector, FOLDER_SECTORS * SECTOR, true);
    used += put_record(at + used, "\1", 1, ROOT_AT, FOLDER_SECTORS * SECTOR, true);
    qsort(records, count, sizeof(records[0]), compare_records);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(records[i].name);
        if (used % SECTOR + 34 + length > SECTOR)
            used = (used / SECTOR + 1) * SECTOR;
        used += put_record(at + used, records[i].name, length, records[i].sector, records[i].size,
                           records[i].folder);
    }
}

static void put_folders(uint8_t *image, const struct iso *iso, const char *folder_name)
{
    struct record records[ISO_FILES_MAX + 1];
    for (int in_folder = 0; in_folder < 2; in_folder++) {
        size_t count = 0;
        if (!in_folder)
            records[count++] = (struct record){folder_name, FOLDER_AT, FOLDER_SECTORS * SECTOR, true};
        for (size_t i = 0; i < iso->file_count; i++) {
            const struct iso_file *file = &iso->files[i];
            if (file->in_folder == in_folder)
                records[count++] = (struct record){file->name, file->sector, file->size, false};
        }
        uint32_t at = in_folder ? FOLDER_AT : ROOT_AT;
        put_folder(sector_of(image, at), at, records, count);
    }
}

static void put_text(uint8_t *p, const char *text, size_t size)
{
    memset(p, ' ', size);
    memcpy(p, text, strlen(text));
}

static void put_volume(uint8_t *p, uint32_t total_sectors, uint32_t path_size)
{
    memcpy(p, "\1CD001\1", 7);
    put_text(p + 8, "", 32);          // system
    put_text(p + 40, "PLASTRON", 32); // volume
    put32_both(p + 80, total_sectors);
    put16_both(p + 120, 1); // a set of one volume
    put16_both(p + 124, 1); // and this is its first
    put16_both(p + 128, SECTOR);
    put32_both(p + 132, path_size);
    put32(p + 140, LITTLE_PATHS_AT);
    uint8_t both[8];
    put32_both(both, BIG_PATHS_AT);
    memcpy(p + 148, both + 4, 4);
    put_record(p + 156, "\0", 1, ROOT_AT, FOLDER_SECTORS * SECTOR, true);
    put_text(p + 190, "", 623); // names of the set, publisher, preparer, application, files
    for (int i = 0; i < 4; i++)
        memset(p + 813 + 17 * i, '0', 16); // dates: not specified
    p[881] = 1;                            // version of this structure
}

// The table of paths: the root and the folder, in both byte orders. Returns its size.
static uint32_t put_paths(uint8_t *little, uint8_t *big, const char *folder_name)
{
    uint8_t both[8];
    uint32_t at[] = {ROOT_AT, FOLDER_AT};
    const char *names[] = {"", folder_name};
    uint32_t used = 0;
    for (int i = 0; i < 2; i++) {
        uint32_t length = i ? (uint32_t)strlen(names[i]) : 1; // the root's name is one zero
        little[used] = big[used] = (uint8_t)length;
        put32_both(both, at[i]);
        memcpy(little + used + 2, both, 4);
        memcpy(big + used + 2, both + 4, 4);
        put16_both(both, 1); // the parent of both is the first one
        memcpy(little + used + 6, both, 2);
        memcpy(big + used + 6, both + 2, 2);
        memcpy(little + used + 8, names[i], strlen(names[i]));
        memcpy(big + used + 8, names[i], strlen(names[i]));
        used += 8 + ((length + 1) & ~1u);
    }
    return used;
}

static void put_boot_record(uint8_t *p)
{
    memcpy(p, "\0CD001\1EL TORITO SPECIFICATION", 30);
    put32(p + 71, BOOT_CATALOG_AT);
}

// The boot catalog: a validation entry, whose 16-bit words add up to 0, and the one entry to boot from.
static void put_boot_catalog(uint8_t *p, uint32_t boot_sector)
{
    p[0] = 1;
    put16(p + 30, 0xaa55);
    uint32_t sum = 0;
    for (int i = 0; i < 32; i += 2)
        sum += p[i] | (uint32_t)p[i + 1] << 8;
    put16(p + 28, 0x10000 - (sum & 0xffff));
    p[32] = 0x88;         // bootable
    put16(p + 32 + 6, 4); // the BIOS loads 4 * 512 bytes; these load the rest
    put32(p + 32 + 8, boot_sector);
}

static bool write_all(int out, const uint8_t *data, size_t size, off_t at)
{
    while (size) {
        ssize_t put = pwrite(out, data, size, at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        data += put;
        at += put;
        size -= (size_t)put;
    }
    return true;
}

static bool copy_file(int out, const struct iso_file *file)
{
    enum { CHUNK = 1 << 20 };
    uint8_t *chunk = malloc(CHUNK);
    uint64_t done = 0;
    bool fine = chunk != NULL;
    while (fine && done < file->size) {
        ssize_t got = pread(file->fd, chunk, CHUNK, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = EIO; // it has become shorter
        size_t left = file->size - (size_t)done;
        size_t size = got > 0 && (size_t)got < left ? (size_t)got : left;
        fine = got > 0 && write_all(out, chunk, size, (off_t)file->sector * SECTOR + (off_t)done);
        done += size;
    }
    free(chunk);
    return fine;
}

// The boot information table: what a loader started by the BIOS has to know about its own file on the CD.
static bool patch_boot_file(int out, const struct iso_file *file)
{
    enum { TABLE_AT = 8, TABLE_SIZE = 56, SUM_FROM = 64 };
    uint8_t *data = calloc(1, file->size + 4);
    uint8_t table[TABLE_SIZE] = {0};
    if (!data)
        return false;
    uint32_t sum = 0;
    bool fine = pread(file->fd, data, file->size, 0) == (ssize_t)file->size;
    for (uint32_t i = SUM_FROM; i < file->size; i += 4)
        sum += (uint32_t)data[i] | (uint32_t)data[i + 1] << 8 | (uint32_t)data[i + 2] << 16 |
               (uint32_t)data[i + 3] << 24;
    free(data);
    put32(table, VOLUME_AT);
    put32(table + 4, file->sector);
    put32(table + 8, file->size);
    put32(table + 12, sum);
    return fine && write_all(out, table, sizeof(table), (off_t)file->sector * SECTOR + TABLE_AT);
}

bool iso_write(struct iso *iso, int out)
{
    char folder_name[ISO_NAME_MAX + 1] = "";
    for (size_t i = 0; iso->folder[i] && i < ISO_NAME_MAX; i++)
        folder_name[i] = (char)toupper((unsigned char)iso->folder[i]);
    uint32_t next = FILES_AT;
    for (size_t i = 0; i < iso->file_count; i++) {
        iso->files[i].sector = next;
        next += sectors(iso->files[i].size);
    }
    next += PADDING;
    uint8_t *image = calloc(FILES_AT, SECTOR);
    if (!image)
        return false;
    uint32_t path_size =
        put_paths(sector_of(image, LITTLE_PATHS_AT), sector_of(image, BIG_PATHS_AT), folder_name);
    put_volume(sector_of(image, VOLUME_AT), next, path_size);
    put_boot_record(sector_of(image, BOOT_RECORD_AT));
    memcpy(sector_of(image, END_OF_VOLUMES_AT), "\377CD001\1", 7);
    put_boot_catalog(sector_of(image, BOOT_CATALOG_AT), iso->files[0].sector);
    put_folders(image, iso, folder_name);
    bool fine = write_all(out, image, (size_t)FILES_AT * SECTOR, 0);
    free(image);
    for (size_t i = 0; fine && i < iso->file_count; i++)
        fine = copy_file(out, &iso->files[i]);
    return fine && patch_boot_file(out, &iso->files[0]) && ftruncate(out, (off_t)next * SECTOR) == 0;
}
