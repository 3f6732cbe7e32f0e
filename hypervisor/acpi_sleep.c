// SPDX-License-Identifier: MIT
// S4 is left to L1: its system has written its memory to a disk, the machine is off, and L0 starts it again.
// From S3 the firmware goes to L1's waking vector, and L0 would be gone; S2 loses the processor's context as
// well; S1 keeps it, and nothing has ever tested that. Nothing here interprets AML: a name object is found by
// its bytes, which no other object starts with. ACPI specification: Fixed ACPI Description Table (FADT); \_Sx
// (System States); Sleep Control Register; ACPI Machine Language (AML) Specification.
#include "acpi_sleep.h"

#define FADT_S4BIOS_REQUEST 54
#define FADT_PM1A_CONTROL   64
#define FADT_PM1B_CONTROL   68
#define FADT_FLAGS          112
#define FADT_RESET          116
#define FADT_RESET_VALUE    128
#define FADT_X_PM1A_CONTROL 172
#define FADT_X_PM1B_CONTROL 184
#define FADT_SLEEP_CONTROL  244
#define FLAG_RESET          (1u << 10)

// Generic Address Structure
#define GAS_SIZE      12
#define GAS_SYSTEM_IO 1

#define AML_ZERO         0x00
#define AML_ONE          0x01
#define AML_NAME         0x08
#define AML_BYTE         0x0a
#define AML_WORD         0x0b
#define AML_DWORD        0x0c
#define AML_QWORD        0x0e
#define AML_PACKAGE      0x12
#define AML_VAR_PACKAGE  0x13
#define AML_METHOD       0x14
#define AML_ROOT         0x5c
#define AML_ONES         0xff
#define AML_HIDDEN_START 'X' // _S3_ becomes XS3_, of which no system knows

#define CHECKSUM_AT 9

static uint64_t little_endian(const uint8_t *from, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = size; i > 0; i--)
        value = value << 8 | from[i - 1];
    return value;
}

static void add_port(struct acpi_sleep *sleep, uint64_t port, uint8_t block)
{
    if (port == 0 || port > 0xffff)
        return;
    for (uint32_t i = 0; i < sleep->port_count; i++)
        if (sleep->at[i].port == port)
            return;
    if (sleep->port_count == ACPI_SLEEP_PORT_MAX)
        return;
    sleep->at[sleep->port_count].port = (uint16_t)port;
    sleep->at[sleep->port_count++].block = block;
}

// The I/O port of a register; 0: it has none. `in_memory`: it is elsewhere.
static uint64_t register_port(const uint8_t *gas, bool *in_memory)
{
    uint64_t address = little_endian(gas + 4, 8);
    if (address != 0 && gas[0] != GAS_SYSTEM_IO)
        *in_memory = true;
    return gas[0] == GAS_SYSTEM_IO ? address : 0;
}

// `offset`: of the byte with SLP_EN in the register.
static void add_register(struct acpi_sleep *sleep, const uint8_t *gas, unsigned offset, uint8_t block)
{
    uint64_t port = register_port(gas, &sleep->in_memory);
    add_port(sleep, port != 0 ? port + offset : 0, block);
}

bool acpi_sleep_read_fadt(uint8_t *fadt, uint32_t length, struct acpi_sleep *sleep)
{
    uint64_t port;
    if (length >= FADT_PM1A_CONTROL + 4 && (port = little_endian(fadt + FADT_PM1A_CONTROL, 4)) != 0)
        add_port(sleep, port + 1, 0);
    if (length >= FADT_PM1B_CONTROL + 4 && (port = little_endian(fadt + FADT_PM1B_CONTROL, 4)) != 0)
        add_port(sleep, port + 1, 1);
    if (length >= FADT_X_PM1A_CONTROL + GAS_SIZE)
        add_register(sleep, fadt + FADT_X_PM1A_CONTROL, 1, 0);
    if (length >= FADT_X_PM1B_CONTROL + GAS_SIZE)
        add_register(sleep, fadt + FADT_X_PM1B_CONTROL, 1, 1);
    if (length >= FADT_SLEEP_CONTROL + GAS_SIZE)
        add_register(sleep, fadt + FADT_SLEEP_CONTROL, 0, 0);

    bool in_memory = false; // or in PCI configuration space: not watched
    if (length > FADT_RESET_VALUE && (little_endian(fadt + FADT_FLAGS, 4) & FLAG_RESET) != 0) {
        uint64_t reset = register_port(fadt + FADT_RESET, &in_memory);
        sleep->reset_port = reset <= 0xffff ? (uint16_t)reset : 0;
        sleep->reset_value = fadt[FADT_RESET_VALUE];
    }

    if (length <= FADT_S4BIOS_REQUEST || fadt[FADT_S4BIOS_REQUEST] == 0)
        return false;
    fadt[FADT_S4BIOS_REQUEST] = 0;
    return true;
}

// Bytes of a PkgLength at `at`, its own included: 1 to 4; 0: it ends behind `end`, or its package does.
// *package_end.
static size_t package_length(const uint8_t *aml, size_t at, size_t end, size_t *package_end)
{
    if (at >= end)
        return 0;
    size_t more = aml[at] >> 6, length = aml[at] & 0x3f;
    if (more >= end - at)
        return 0;
    if (more > 0)
        length &= 0xf;
    for (size_t i = 1; i <= more; i++)
        length |= (size_t)aml[at + i] << (8 * i - 4);
    if (length < 1 + more || length > end - at)
        return 0;
    *package_end = at + length;
    return 1 + more;
}

// An integer constant at *at, which moves behind it. false: there is none.
static bool read_integer(const uint8_t *aml, size_t *at, size_t end, uint64_t *value)
{
    if (*at >= end)
        return false;
    unsigned size = 0;
    switch (aml[*at]) {
    case AML_ZERO:
    case AML_ONE:
        *value = aml[*at];
        break;
    case AML_ONES:
        *value = ~0ull;
        break;
    case AML_BYTE:
        size = 1;
        break;
    case AML_WORD:
        size = 2;
        break;
    case AML_DWORD:
        size = 4;
        break;
    case AML_QWORD:
        size = 8;
        break;
    default:
        return false;
    }
    if (size > end - *at - 1)
        return false;
    if (size > 0)
        *value = little_endian(aml + *at + 1, size);
    *at += 1 + size;
    return true;
}

// Package { SLP_TYPa, SLP_TYPb, ... } at `at`, or of one number with both.
static void read_package(const uint8_t *aml, size_t at, size_t end, uint8_t types[2])
{
    size_t package_end, own = package_length(aml, at + 1, end, &package_end);
    uint64_t a, b;
    if (own == 0)
        return;
    at += 1 + own;
    if (at >= package_end)
        return;
    unsigned count = aml[at++];
    if (!read_integer(aml, &at, package_end, &a))
        return;
    if (count == 1)
        b = a >> 8;
    else if (!read_integer(aml, &at, package_end, &b))
        return;
    types[0] |= (uint8_t)(1u << (a & 7));
    types[1] |= (uint8_t)(1u << (b & 7));
}

static bool is_state_name(const uint8_t *name)
{
    return name[0] == '_' && name[1] == 'S' && name[2] >= '0' && name[2] < '0' + ACPI_SLEEP_STATES &&
           name[3] == '_';
}

// Does a method begin before the name at `at`? Its length is between, in one to four bytes.
static bool is_method_name(const uint8_t *aml, size_t at, size_t end)
{
    size_t package_end;
    for (size_t bytes = 1; bytes <= 4 && at > bytes; bytes++)
        if (aml[at - bytes - 1] == AML_METHOD &&
            package_length(aml, at - bytes, end, &package_end) == bytes && package_end >= at + 5)
            return true;
    return false;
}

unsigned acpi_sleep_hide(uint8_t *aml, size_t size, struct acpi_sleep *sleep)
{
    unsigned hidden = 0;
    for (size_t at = 1; at + 5 <= size; at++) {
        if (!is_state_name(aml + at))
            continue;
        size_t start = aml[at - 1] == AML_ROOT ? at - 1 : at; // of the name, with its prefix
        uint8_t behind = aml[at + 4];
        bool is_name =
            start > 0 && aml[start - 1] == AML_NAME && (behind == AML_PACKAGE || behind == AML_VAR_PACKAGE);
        if (!is_name && !is_method_name(aml, start, size))
            continue;
        unsigned state = aml[at + 2] - (unsigned)'0';
        if (is_name && behind == AML_PACKAGE)
            read_package(aml, at + 4, size, sleep->types[state]);
        if (acpi_sleep_is_hidden(state)) {
            aml[at] = AML_HIDDEN_START;
            hidden++;
        }
    }
    return hidden;
}

bool acpi_sleep_is_hidden(unsigned state)
{
    return state >= 1 && state <= 3;
}

unsigned acpi_sleep_state(const struct acpi_sleep *sleep, unsigned block, unsigned type)
{
    static const uint8_t order[] = {3, 2, 1, 5, 4};
    for (unsigned i = 0; i < sizeof(order); i++)
        if ((sleep->types[order[i]][block] >> type & 1) != 0)
            return order[i];
    return 0;
}

void acpi_sleep_correct_checksum(uint8_t *table, uint32_t length)
{
    uint8_t sum = 0;
    for (uint32_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + table[i]);
    table[CHECKSUM_AT] = (uint8_t)(table[CHECKSUM_AT] - sum);
}
