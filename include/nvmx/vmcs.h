// SPDX-License-Identifier: MIT
// VMCS field encodings and dense indexes, both generated from vmcs_fields.def.
#ifndef NVMX_VMCS_H
#define NVMX_VMCS_H

#include <nvmx/types.h>

// VMCS_x: the encoding that VMREAD and VMWRITE take.
enum vmcs_encoding {
#define FIELD(name, encoding, width, type, exists, entry, exit) VMCS_##name = (encoding),
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

// F_x: dense index of the field; vmcs12 is an array indexed by it.
enum vmcs_field {
#define FIELD(name, encoding, width, type, exists, entry, exit) F_##name,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    F_COUNT
};

// "GUEST_RIP"; and its encoding.
const char *vmcs_field_name(enum vmcs_field field);
uint32_t vmcs_field_encoding(enum vmcs_field field);

// Field Encoding in VMCS: access type 0, index 9:1, type 11:10, width 14:13.
#define VMCS_WIDTH_16      0u
#define VMCS_WIDTH_64      1u
#define VMCS_WIDTH_32      2u
#define VMCS_WIDTH_N       3u
#define VMCS_TYPE_CONTROL  0u
#define VMCS_TYPE_INFO     1u
#define VMCS_TYPE_GUEST    2u
#define VMCS_TYPE_HOST     3u
#define VMCS_HIGH          1u // access type "high": the upper half of a 64-bit field
#define VMCS_ENCODING_MASK 0x7fffu

static inline uint32_t vmcs_encoding_width(uint32_t encoding)
{
    return (encoding >> 13) & 3;
}
static inline uint32_t vmcs_encoding_type(uint32_t encoding)
{
    return (encoding >> 10) & 3;
}
static inline uint32_t vmcs_encoding_index(uint32_t encoding)
{
    return (encoding >> 1) & 0x1ff;
}

#endif
