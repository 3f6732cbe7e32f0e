// SPDX-License-Identifier: MIT
// INS and OUTS of L1 at ports that L0 intercepts: L0 moves the element between the port and L1's memory.
// Manual: INS/INSB/INSW/INSD; OUTS/OUTSB/OUTSW/OUTSD; Page-Fault Exceptions.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PORT             0x514u // nested, L0's (L0_PASSED_PORT)
#define OUTS_SIZE(at, n) OP(.kind = OP_OUTS, .a = PORT, .b = (at), .size = (n))
#define INS_SIZE(at, n)  OP(.kind = OP_INS, .a = PORT, .b = (at), .size = (n))
#define LAST_OF_PAGE     (L1_SCRATCH + 0xffe)

static uint32_t read_port(void)
{
    l1_run(IN_SIZE(PORT, 4));
    return (uint32_t)l1_gpr(GPR_RAX);
}

static uint32_t get(uint64_t at)
{
    uint32_t value;
    memcpy(&value, l1_memory(at), sizeof(value));
    return value;
}

static void put(uint64_t at, uint32_t value)
{
    memcpy(l1_memory(at), &value, sizeof(value));
}

static void elements_between_memory_and_a_port(void)
{
    static const uint64_t places[] = {L1_SCRATCH, L1_SCRATCH + 0xffc, LAST_OF_PAGE};
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        put(places[i], 0x11223344 + i);
        l1_run(OUTS_SIZE(places[i], 4));
        assert_int_equal(read_port(), 0x11223344 + i);
        l1_run(OUT_SIZE(PORT, 0x55667788 + i, 4));
        l1_run(INS_SIZE(places[i], 4));
        assert_int_equal(get(places[i]), 0x55667788 + i);
        put(places[i], 0x99aabbcc);
        l1_run(OUTS_SIZE(places[i], 2)); // no more than that many bytes
        assert_int_equal(read_port(), 0x5566bbcc);
        l1_run(INS_SIZE(places[i] + 1, 1));
        assert_int_equal(get(places[i]), 0x99aacccc);
    }
}

static void elements_that_fault(void)
{
    l1_run(OUT_SIZE(PORT, 0x01020304, 4));
    expect_exception_with_code(l1_execute(OUTS_SIZE(L1_NOT_MAPPED + 0x123, 4)), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED + 0x123);
    expect_exception_with_code(l1_execute(INS_SIZE(L1_NOT_MAPPED + 0x456, 4)), VECTOR_PF, 2);
    assert_int_equal(l1_cr2(), L1_NOT_MAPPED + 0x456);
    assert_int_equal(read_port(), 0x01020304);
}

// The second page is missing: nothing is transferred, to the first page either.
static void elements_that_fault_half_way(void)
{
    uint64_t at = L1_RAM_SIZE - 2; // linear addresses are mapped up to here
    *(uint16_t *)l1_memory(at) = 0x7788;
    l1_run(OUT_SIZE(PORT, 0x01020304, 4));
    expect_exception_with_code(l1_execute(OUTS_SIZE(at, 4)), VECTOR_PF, 0);
    assert_int_equal(l1_cr2(), L1_RAM_SIZE);
    expect_exception_with_code(l1_execute(INS_SIZE(at, 4)), VECTOR_PF, 2);
    assert_int_equal(l1_cr2(), L1_RAM_SIZE);
    assert_int_equal(*(uint16_t *)l1_memory(at), 0x7788);
    assert_int_equal(read_port(), 0x01020304);
}

static const struct CMUnitTest tests[] = {
    BOTH(elements_between_memory_and_a_port),
    BOTH(elements_that_fault),
    BOTH(elements_that_fault_half_way),
};

int main(void)
{
    return cmocka_run_group_tests_name("string I/O", tests, NULL, NULL);
}
