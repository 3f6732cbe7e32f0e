// SPDX-License-Identifier: MIT
// INS and OUTS of L1 at ports that L0 intercepts: L0 moves the element between the port and L1's memory.
// Manual: INS/INSB/INSW/INSD; OUTS/OUTSB/OUTSW/OUTSD; Page-Fault Exceptions; Access Rights.
#include "l1_vmx.h"
#include "world_internal.h"
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

#define USER_PAGE   0xc00000
#define KERNEL_PAGE 0xe00000
#define IOPL_3      0x3000ull

// With pages of both modes; what the processor itself needs is the kernel's.
static void prepare_pages(uint64_t cr4)
{
    uint64_t *directory = l1_memory(L1_PAGE_TABLES + 0x2000);
    directory[0] = 0x83;
    directory[KERNEL_PAGE >> 21] = KERNEL_PAGE | 0x83;
    directory[USER_PAGE >> 21] = USER_PAGE | 0x87;
    l1_run(MOV_TO_CR(4, CR4_PAE | cr4));
    l1_run(MOV_TO_CR(3, L1_PAGE_TABLES));
    l1_run(OUT_SIZE(PORT, 0x01020304, 4));
    put(USER_PAGE, 0x11111111);
    put(KERNEL_PAGE, 0x22222222);
}

static void set_flags(uint64_t flags)
{
    l1_run(SET_FLAGS(RFLAGS_FIXED | IOPL_3 | flags));
}

static void user_mode_and_the_kernels_pages(void)
{
    prepare_pages(0);
    set_flags(0);
    l1_run(SET_CPL(3));
    expect_exception_with_code(l1_execute(INS_SIZE(KERNEL_PAGE, 4)), VECTOR_PF, 7);
    assert_int_equal(l1_cr2(), KERNEL_PAGE);
    expect_exception_with_code(l1_execute(OUTS_SIZE(KERNEL_PAGE + 8, 4)), VECTOR_PF, 5);
    assert_int_equal(l1_cr2(), KERNEL_PAGE + 8);
    expect_exception_with_code(l1_execute(INS_SIZE(KERNEL_PAGE - 2, 4)), VECTOR_PF, 7); // half of it
    assert_int_equal(l1_cr2(), KERNEL_PAGE);
    expect_exception_with_code(l1_execute(INS_SIZE(L1_NOT_MAPPED, 4)), VECTOR_PF, 6);
    assert_int_equal(get(KERNEL_PAGE), 0x22222222);
    assert_int_equal(read_port(), 0x01020304);
    l1_run(OUTS_SIZE(USER_PAGE, 4));
    assert_int_equal(read_port(), 0x11111111);
    l1_run(SET_CPL(2)); // not user mode
    l1_run(OUTS_SIZE(KERNEL_PAGE, 4));
    assert_int_equal(read_port(), 0x22222222);
    l1_run(SET_CPL(0));
}

// Without CR0.WP CPL 0 writes where user mode may not.
static void pages_that_are_read_only(void)
{
    prepare_pages(0);
    *(uint64_t *)l1_memory(L1_PAGE_TABLES + 0x2000 + 8 * (USER_PAGE >> 21)) = USER_PAGE | 0x85;
    set_flags(0);
    l1_run(MOV_FROM_CR(GPR_RAX, 0));
    uint64_t cr0 = l1_gpr(GPR_RAX);
    for (unsigned wp = 0; wp < 2; wp++) {
        l1_run(MOV_TO_CR(0, wp ? cr0 | CR0_WP : cr0 & ~CR0_WP));
        l1_run(SET_CPL(3));
        expect_exception_with_code(l1_execute(INS_SIZE(USER_PAGE, 4)), VECTOR_PF, 7);
        l1_run(SET_CPL(0));
        struct outcome outcome = l1_execute(INS_SIZE(USER_PAGE, 4));
        if (wp)
            expect_exception_with_code(outcome, VECTOR_PF, 3);
        else
            expect_succeed(outcome);
    }
}

static void supervisor_mode_access_prevention(void)
{
    prepare_pages(CR4_SMAP);
    set_flags(0);
    expect_exception_with_code(l1_execute(OUTS_SIZE(USER_PAGE, 4)), VECTOR_PF, 1);
    expect_exception_with_code(l1_execute(INS_SIZE(USER_PAGE, 4)), VECTOR_PF, 3);
    l1_run(OUTS_SIZE(KERNEL_PAGE, 4));
    assert_int_equal(read_port(), 0x22222222);
    set_flags(RFLAGS_AC);
    l1_run(OUTS_SIZE(USER_PAGE, 4));
    assert_int_equal(read_port(), 0x11111111);
    set_flags(0);
    l1_run(SET_CPL(3)); // no supervisor
    put(USER_PAGE, 0x33333333);
    l1_run(OUTS_SIZE(USER_PAGE, 4));
    assert_int_equal(read_port(), 0x33333333);
    l1_run(SET_CPL(0));
}

static void alignment(void)
{
    prepare_pages(0);
    l1_run(MOV_FROM_CR(GPR_RAX, 0));
    l1_run(MOV_TO_CR(0, l1_gpr(GPR_RAX) | CR0_AM));
    set_flags(RFLAGS_AC);
    l1_run(OUTS_SIZE(USER_PAGE + 1, 2)); // CPL 0 is not asked
    l1_run(SET_CPL(3));
    expect_exception_with_code(l1_execute(OUTS_SIZE(USER_PAGE + 1, 2)), VECTOR_AC, 0);
    expect_exception_with_code(l1_execute(INS_SIZE(USER_PAGE + 2, 4)), VECTOR_AC, 0);
    l1_run(OUTS_SIZE(USER_PAGE + 1, 1));
    l1_run(OUTS_SIZE(USER_PAGE + 4, 4));
    set_flags(0);
    l1_run(OUTS_SIZE(USER_PAGE + 1, 2));
    l1_run(SET_CPL(0));
}

static void addresses_that_are_not_canonical(void)
{
    l1_run(OUT_SIZE(PORT, 0x01020304, 4));
    expect_exception_with_code(l1_execute(OUTS_SIZE(0x800000000000, 4)), VECTOR_GP, 0);
    expect_exception_with_code(l1_execute(INS_SIZE(0x800000000000, 4)), VECTOR_GP, 0);
    assert_int_equal(read_port(), 0x01020304);
}

static void segments(void)
{
    l1_run(OUT_SIZE(PORT, 0x01020304, 4));
    l1_run(TO_COMPATIBILITY_MODE);
    struct segment *es = &l1_cpu()->r.segment[SEGMENT_ES], *ds = &l1_cpu()->r.segment[SEGMENT_DS];
    const struct segment es_before = *es, ds_before = *ds;
    es->limit = ds->limit = L1_SCRATCH + 0xfff;
    l1_run(INS_SIZE(L1_SCRATCH + 0xffc, 4));
    assert_int_equal(get(L1_SCRATCH + 0xffc), 0x01020304);
    expect_exception_with_code(l1_execute(INS_SIZE(L1_SCRATCH + 0xffd, 4)), VECTOR_GP, 0);
    l1_run(TO_COMPATIBILITY_MODE); // the handler returns to 64-bit mode
    expect_exception_with_code(l1_execute(OUTS_SIZE(L1_SCRATCH + 0x1000, 1)), VECTOR_GP, 0);
    l1_run(TO_COMPATIBILITY_MODE);
    es->access_rights = 0xc091; // read-only
    expect_exception_with_code(l1_execute(INS_SIZE(L1_SCRATCH, 4)), VECTOR_GP, 0);
    l1_run(TO_COMPATIBILITY_MODE);
    *es = es_before;
    es->base = 0x1000;
    l1_run(INS_SIZE(L1_SCRATCH, 4));
    assert_int_equal(get(L1_SCRATCH + 0x1000), 0x01020304);
    ds->access_rights = SEGMENT_UNUSABLE;
    expect_exception_with_code(l1_execute(OUTS_SIZE(L1_SCRATCH, 4)), VECTOR_GP, 0);
    *es = es_before;
    *ds = ds_before;
}

static void repeat(enum op_kind kind, uint64_t count)
{
    l1_set_gpr(GPR_RCX, count);
    l1_set_gpr(GPR_RSI, L1_SCRATCH + 4);
    l1_set_gpr(GPR_RDI, L1_SCRATCH + 4);
    l1_run(OP(.kind = kind, .a = PORT, .size = 2, .flag = true));
}

static void repetition(void)
{
    put(L1_SCRATCH, 0x22221111);
    put(L1_SCRATCH + 4, 0x44443333);
    put(L1_SCRATCH + 8, 0x66665555);
    l1_run(OUT_SIZE(PORT, 0x0102, 4));
    repeat(OP_OUTS, 0); // nothing happens
    assert_int_equal(l1_gpr(GPR_RSI), L1_SCRATCH + 4);
    assert_int_equal(read_port(), 0x0102);
    repeat(OP_OUTS, 3);
    assert_int_equal(l1_gpr(GPR_RSI), L1_SCRATCH + 10);
    assert_int_equal(l1_gpr(GPR_RCX), 0);
    assert_int_equal(read_port(), 0x5555);
    set_flags(RFLAGS_DF);
    repeat(OP_OUTS, 2);
    assert_int_equal(l1_gpr(GPR_RSI), L1_SCRATCH);
    assert_int_equal(read_port(), 0x2222);
    repeat(OP_INS, 1);
    assert_int_equal(l1_gpr(GPR_RDI), L1_SCRATCH + 2);
    assert_int_equal(get(L1_SCRATCH + 4), 0x44442222);
}

static const struct CMUnitTest tests[] = {
    BOTH(elements_between_memory_and_a_port),
    BOTH(elements_that_fault),
    BOTH(elements_that_fault_half_way),
    BOTH(user_mode_and_the_kernels_pages),
    BOTH(pages_that_are_read_only),
    BOTH(supervisor_mode_access_prevention),
    BOTH(alignment),
    BOTH(addresses_that_are_not_canonical),
    BOTH(segments),
    BOTH(repetition),
};

int main(void)
{
    return cmocka_run_group_tests_name("string I/O", tests, NULL, NULL);
}
