// SPDX-License-Identifier: MIT
// Tells what kind of image L1 is.
#include "load.h"
#include "load_multiboot.h"
#include "load_plan.h"
#include "string.h"

struct compression {
    const char *name;
    uint8_t magic[6];
    uint8_t length;
};

static const struct compression compressions[] = {
    {"gzip", {0x1f, 0x8b}, 2},
    {"bzip2", {'B', 'Z', 'h'}, 3},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6},
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4},
    {"lz4", {0x02, 0x21, 0x4c, 0x18}, 4},
};

static const char *find_compression(struct load_file file)
{
    for (size_t i = 0; i < sizeof compressions / sizeof *compressions; i++) {
        const struct compression *c = &compressions[i];
        if (file.size >= c->length && memcmp(file.bytes, c->magic, c->length) == 0)
            return c->name;
    }
    return NULL;
}

bool l1_load(const struct l1_load_request *request, struct l1_start_state *start)
{
    static struct load_plan plan; // too large for a small stack
    uint64_t header;
    if (!plan_begin(&plan, request))
        return false;
    struct load_file image = plan_file(&plan, 0);
    const char *compression = find_compression(image);
    if (image.size == 0)
        return load_refuse(request, "the L1 image is empty");
    if (linux_is_kernel(image))
        return linux_load(&plan, start);
    if (multiboot_find_header(image, &header))
        return multiboot_load(&plan, header, start);
    if (compression)
        return load_refuse(request, "the L1 image is compressed with %s: unpack it first", compression);
    return multiboot_refuse_headerless(&plan);
}
