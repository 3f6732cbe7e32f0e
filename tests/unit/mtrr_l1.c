// SPDX-License-Identifier: MIT
// hypervisor/mtrr_l1.c on a host: which registers L1 has, and which values are legal.
#include "../../hypervisor/mtrr_l1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define RESERVED (~((1ull << 40) - 1))

static bool write_is_legal(uint64_t cap, uint32_t msr, uint64_t value)
{
    struct mtrr_l1 mtrr = {.cap = cap, .reserved = RESERVED};
    uint64_t read = 0;
    bool legal = mtrr_l1_write(&mtrr, msr, value);
    if (legal) {
        assert_true(mtrr_l1_read(&mtrr, msr, &read));
        assert_int_equal(read, value);
    } else if (mtrr_l1_read(&mtrr, msr, &read)) {
        assert_int_equal(read, 0); // as it was
    }
    return legal;
}

static void registers_are_those_of_the_capability(void **state)
{
    (void)state;
    uint64_t value;
    struct mtrr_l1 mtrr = {.cap = 0x508, .reserved = RESERVED};
    for (uint32_t msr = 0x1f0; msr < 0x310; msr++) {
        bool variable = msr >= 0x200 && msr < 0x210;
        bool fixed = msr == 0x250 || msr == 0x258 || msr == 0x259 || (msr >= 0x268 && msr <= 0x26f);
        assert_int_equal(mtrr_l1_read(&mtrr, msr, &value), variable || fixed || msr == 0x2ff);
    }
    mtrr.cap = 0x400; // no fixed ranges, no variable ones
    assert_false(mtrr_l1_read(&mtrr, 0x250, &value));
    assert_false(mtrr_l1_read(&mtrr, 0x200, &value));
    assert_true(mtrr_l1_read(&mtrr, 0x2ff, &value));
    mtrr.cap = 0x4ff; // more variable ranges than there are registers for
    assert_true(mtrr_l1_read(&mtrr, 0x21f, &value));
    assert_false(mtrr_l1_read(&mtrr, 0x220, &value));
    mtrr.cap = 0; // no MTRRs
    assert_false(mtrr_l1_read(&mtrr, 0x2ff, &value));
    assert_false(mtrr_l1_write(&mtrr, 0x2ff, 0));
}

static void types_are_those_of_the_manual(void **state)
{
    (void)state;
    for (uint64_t type = 0; type < 256; type++) {
        bool legal = type == 0 || type == 1 || (type >= 4 && type <= 6);
        assert_int_equal(write_is_legal(0x508, 0x2ff, 0xc00 | type), legal);
        assert_int_equal(write_is_legal(0x508, 0x200, 0xc0000000 | type), legal);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(write_is_legal(0x508, 0x26f, type << 8 * i), legal);
    }
    assert_false(write_is_legal(0x108, 0x2ff, 1)); // no write-combining
    assert_true(write_is_legal(0x108, 0x2ff, 6));
}

static void reserved_bits_fault(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t value = 1ull << bit;
        assert_int_equal(write_is_legal(0x508, 0x2ff, value), bit == 0 || bit == 2 || bit == 10 || bit == 11);
        assert_int_equal(write_is_legal(0x508, 0x20e, value),
                         bit == 0 || bit == 2 || (bit >= 12 && bit < 40));
        assert_int_equal(write_is_legal(0x508, 0x20f, value), bit >= 11 && bit < 40);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_are_those_of_the_capability),
        cmocka_unit_test(types_are_those_of_the_manual),
        cmocka_unit_test(reserved_bits_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
