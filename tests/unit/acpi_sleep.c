// SPDX-License-Identifier: MIT
// hypervisor/acpi_sleep.c on a host: the forms in which firmware writes its sleep states, and tables that are
// garbled.
#include "../../hypervisor/acpi_sleep.h"

#include "../support/xorshift.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// As long as they are, so that the sanitizer sees a byte too far.
static unsigned hide(const void *bytes, size_t size, struct acpi_sleep *sleep, uint8_t *result)
{
    uint8_t *aml = malloc(size);
    memcpy(aml, bytes, size);
    *sleep = (struct acpi_sleep){0};
    unsigned count = acpi_sleep_hide(aml, size, sleep);
    memcpy(result, aml, size);
    free(aml);
    return count;
}

static void expect_types(const struct acpi_sleep *sleep, unsigned state, unsigned a, unsigned b)
{
    assert_int_equal(sleep->types[state][0], 1u << a);
    assert_int_equal(sleep->types[state][1], 1u << b);
}

// Bochs and QEMU (SeaBIOS) of old: Name (\_S3, Package (0x04) { One, One, Zero, Zero }) and so on.
static void as_bochs_writes_them(void **state)
{
    (void)state;
    static const char dsdt[] =
        "\x10\x0a_SB_...\x08\\_S3_\x12\x06\x04\x01\x01\x00\x00\x08\\_S4_\x12\x06\x04\x00\x00\x00\x00\x08"
        "\\_S5_\x12\x06\x04\x00\x00\x00\x00\x5b\x82";
    struct acpi_sleep sleep;
    uint8_t result[sizeof(dsdt)];
    assert_int_equal(hide(dsdt, sizeof(dsdt) - 1, &sleep, result), 1);
    expect_types(&sleep, 3, 1, 1);
    expect_types(&sleep, 4, 0, 0);
    expect_types(&sleep, 5, 0, 0);
    uint8_t expected[sizeof(dsdt)];
    memcpy(expected, dsdt, sizeof(dsdt));
    memcpy(memmem(expected, sizeof(dsdt), "_S3_", 4), "XS3_", 4);
    assert_memory_equal(result, expected, sizeof(dsdt) - 1);
    assert_int_equal(acpi_sleep_state(&sleep, 0, 1), 3);
    assert_int_equal(acpi_sleep_state(&sleep, 0, 0), 5); // and S4, which is off as well
    assert_int_equal(acpi_sleep_state(&sleep, 1, 7), 0);
}

// BytePrefix, WordPrefix, DWordPrefix and QWordPrefix; no root prefix; two blocks that differ.
static void integers_of_every_size(void **state)
{
    (void)state;
    static const char dsdt[] = "\x08_S1_\x12\x08\x04\x0a\x01\x0a\x02\x00\x00"
                               "\x08_S3_\x12\x0a\x02\x0b\x05\x00\x0c\x06\x00\x00\x00"
                               "\x08_S5_\x12\x0c\x02\x0e\x07\x00\x00\x00\x00\x00\x00\x00\x01"
                               "\x08_S2_\x12\x04\x02\xff\x00"
                               "\x08_S4_\x12\x05\x01\x0b\x06\x04";
    struct acpi_sleep sleep;
    uint8_t result[sizeof(dsdt)];
    assert_int_equal(hide(dsdt, sizeof(dsdt) - 1, &sleep, result), 3);
    expect_types(&sleep, 1, 1, 2);
    expect_types(&sleep, 2, 7, 0);
    expect_types(&sleep, 3, 5, 6);
    expect_types(&sleep, 4, 6, 4); // one number with both
    expect_types(&sleep, 5, 7, 1);
    for (unsigned i = '1'; i <= '5'; i++) {
        char name[4] = {'_', 'S', (char)i, '_'};
        assert_int_equal(memmem(result, sizeof(dsdt) - 1, name, 4) == NULL, i < '4');
    }
}

// A package of two to four bytes of length, one in a conditional, and a method that returns it.
static void other_forms(void **state)
{
    (void)state;
    static const char dsdt[] = "\xa0\x10SS3_\x08_S3_\x12\x46\x00\x02\x0a\x05\x00"
                               "\x14\x0b\\_S1_\x00\xa4\x12\x04\x02\x01"
                               "\x14\x4c\x00_S2_\x00\xa4\x12\x04\x02\x01\x01"
                               "\x08_S3_\x13\x04\x0a\x02\x01";
    struct acpi_sleep sleep;
    uint8_t result[sizeof(dsdt)];
    assert_int_equal(hide(dsdt, sizeof(dsdt) - 1, &sleep, result), 4);
    expect_types(&sleep, 3, 5, 0);
    assert_null(memmem(result, sizeof(dsdt) - 1, "_S3_", 4));
    assert_null(memmem(result, sizeof(dsdt) - 1, "_S2_", 4));
    assert_null(memmem(result, sizeof(dsdt) - 1, "_S1_", 4));
}

// A reference to an object, a string, a field, another name: no definition of it.
static void what_is_no_definition(void **state)
{
    (void)state;
    static const char dsdt[] =
        "\x70\x01_S3_\x0d_S3_\x00\x5b\x80_S3_\x00\x08_S3D\x0a\x03\x08_S6_\x12\x04\x02\x01\x01"
        "\x08_S3_\x0a\x01\x08__S3_\x12\x04\x02\x01\x01";
    struct acpi_sleep sleep, nothing = {0};
    uint8_t result[sizeof(dsdt)];
    assert_int_equal(hide(dsdt, sizeof(dsdt) - 1, &sleep, result), 0);
    assert_memory_equal(result, dsdt, sizeof(dsdt) - 1);
    assert_memory_equal(&sleep, &nothing, sizeof(sleep));
}

static void every_end(void **state)
{
    (void)state;
    static const char dsdt[] =
        "\x14\x4c\x00\\_S2_\x00\x08\\_S3_\x12\x41\x01\x02\x0c\x05\x00\x00\x00\x0e\x06\x00\x00\x00\x00"
        "\x00\x00\x00";
    struct acpi_sleep sleep;
    uint8_t result[sizeof(dsdt)];
    for (size_t size = 1; size < sizeof(dsdt); size++)
        hide(dsdt, size, &sleep, result);
    expect_types(&sleep, 3, 5, 6);
}

static void garbled_tables(void **state)
{
    (void)state;
    static const char parts[][8] = {"_S3_", "_S5_", "\x08", "\\",   "\x12", "\x14",
                                    "\x13", "\x0a", "\x0c", "\x0e", "\xff", "\x40"};
    uint64_t random = 1;
    for (unsigned round = 0; round < 200000; round++) {
        uint8_t bytes[64], result[64];
        size_t size = 0, limit = 1 + xorshift(&random) % 60;
        while (size < limit) {
            const char *part = parts[xorshift(&random) % (sizeof(parts) / sizeof(parts[0]))];
            if (xorshift(&random) % 4 == 0)
                bytes[size++] = (uint8_t)xorshift(&random);
            else
                for (size_t i = 0; i < strlen(part) && size < limit; i++)
                    bytes[size++] = (uint8_t)part[i];
        }
        struct acpi_sleep sleep;
        hide(bytes, size, &sleep, result);
        for (size_t i = 0; i < size; i++) // it changes nothing but the start of a name
            if (bytes[i] != result[i] && !(bytes[i] == '_' && result[i] == 'X' && bytes[i + 1] == 'S'))
                fail_msg("byte %zu of round %u became %#x", i, round, result[i]);
    }
}

static void put(uint8_t *fadt, unsigned at, uint64_t value, unsigned size)
{
    memcpy(fadt + at, &value, size);
}

static void put_register(uint8_t *fadt, unsigned at, uint8_t space, uint64_t address)
{
    fadt[at] = space;
    put(fadt, at + 4, address, 8);
}

static void registers_of_the_fadt(void **state)
{
    (void)state;
    uint8_t fadt[268] = "FACP";
    put(fadt, 54, 0xf1, 1);
    put(fadt, 64, 0x604, 4);
    put(fadt, 68, 0, 4);
    put(fadt, 112, 1u << 10, 4);
    put_register(fadt, 116, 1, 0xcf9);
    put(fadt, 128, 6, 1);
    put_register(fadt, 172, 1, 0x604);
    put_register(fadt, 184, 1, 0x704);
    put_register(fadt, 244, 1, 0x3405);
    struct acpi_sleep sleep = {0};
    assert_true(acpi_sleep_read_fadt(fadt, sizeof(fadt), &sleep));
    assert_int_equal(fadt[54], 0);
    assert_false(acpi_sleep_read_fadt(fadt, sizeof(fadt), &sleep)); // and no port twice
    assert_int_equal(sleep.port_count, 3);
    assert_int_equal(sleep.at[0].port, 0x605);
    assert_int_equal(sleep.at[1].port, 0x705);
    assert_int_equal(sleep.at[1].block, 1);
    assert_int_equal(sleep.at[2].port, 0x3405);
    assert_int_equal(sleep.at[2].block, 0);
    assert_int_equal(sleep.reset_port, 0xcf9);
    assert_int_equal(sleep.reset_value, 6);
    assert_false(sleep.in_memory);
    acpi_sleep_correct_checksum(fadt, sizeof(fadt));
    uint8_t sum = 0;
    for (unsigned i = 0; i < sizeof(fadt); i++)
        sum = (uint8_t)(sum + fadt[i]);
    assert_int_equal(sum, 0);
}

static void registers_elsewhere(void **state)
{
    (void)state;
    uint8_t fadt[268] = "FACP";
    put(fadt, 112, 1u << 10, 4);
    put_register(fadt, 116, 0, 0xfed00000);
    put_register(fadt, 244, 0, 0xfed10000);
    put(fadt, 64, 0x12345, 4);
    struct acpi_sleep sleep = {0};
    assert_false(acpi_sleep_read_fadt(fadt, sizeof(fadt), &sleep));
    assert_int_equal(sleep.port_count, 0);
    assert_int_equal(sleep.reset_port, 0);
    assert_true(sleep.in_memory);
}

// A FADT of version 1 ends early, and a garbled one anywhere.
static void short_fadts(void **state)
{
    (void)state;
    uint8_t full[268];
    memset(full, 1, sizeof(full));
    for (uint32_t length = 0; length <= sizeof(full); length++) {
        uint8_t *fadt = malloc(length + 1);
        struct acpi_sleep sleep = {0};
        memcpy(fadt, full, length);
        acpi_sleep_read_fadt(fadt, length, &sleep);
        free(fadt);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_bochs_writes_them),
        cmocka_unit_test(integers_of_every_size),
        cmocka_unit_test(other_forms),
        cmocka_unit_test(what_is_no_definition),
        cmocka_unit_test(every_end),
        cmocka_unit_test(garbled_tables),
        cmocka_unit_test(registers_of_the_fadt),
        cmocka_unit_test(registers_elsewhere),
        cmocka_unit_test(short_fadts),
    };
    return cmocka_run_group_tests_name("acpi_sleep", tests, NULL, NULL);
}
