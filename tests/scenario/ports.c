// SPDX-License-Identifier: MIT
// I/O bitmaps in memory that L2 itself can write: without EPT its memory is L1's. The manual advises against
// it (Software Access to Related Structures), but the processor looks at the bitmap at every access.
#include "l1_vmx.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BITMAPS       0x50000 // L2-linear; A, and B behind it
#define WORD_OF(port) (BITMAPS + (port) / 64 * 8)
#define BIT_OF(port)  (1ull << (port) % 64)

static void prepare(struct l2 *l2)
{
    l2->without_ept = true;
    l1_prepare(l2);
    memset(l2_memory(BITMAPS), 0, 0x2000);
    l1_vmwrite(VMCS_IO_BITMAP_A, L2_RAM + BITMAPS);
    l1_vmwrite(VMCS_IO_BITMAP_B, L2_RAM + BITMAPS + 0x1000);
    l1_set(VMCS_PRIMARY_CONTROLS, PRIMARY_USE_IO_BITMAPS);
}

static void l2_closes_a_port_to_itself(void)
{
    L2_PROGRAM(l2, OUT(0x60, 1), IN(0x60), OUT(0x60, 2), WRITE(WORD_OF(0x60), BIT_OF(0x60)), OUT(0x60, 3),
               IN(0x60), VMCALL);
    prepare(&l2);
    l1_vmlaunch();
    assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 3);
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x600000);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x600000 | 1 << 3);
    l1_skip_instruction();
    l1_vmresume();
    expect_exit(EXIT_VMCALL);
}

static void l2_opens_a_port_to_itself(void)
{
    L2_PROGRAM(l2, OUT(0x9000, 1), WRITE(WORD_OF(0x9000), 0), OUT_SIZE(0x8fff, 0x1234, 2), IN(0x9000),
               VMCALL);
    prepare(&l2);
    *(uint64_t *)l2_memory(WORD_OF(0x9000)) = BIT_OF(0x9000);
    l1_vmlaunch();
    expect_exit_qualification(EXIT_IO_INSTRUCTION, 0x90000000);
    l1_skip_instruction();
    l1_vmresume();
    assert_int_equal(l1_gpr(GPR_RAX) & 0xff, 0x12);
    expect_exit(EXIT_VMCALL);
}

// L0 does not carry out string instructions of L2: it opens the port, as it does with EPT.
static void strings_pass(void)
{
    L2_PROGRAM(l2, OUTS(0x70, 0x51000), INS(0x70, 0x51008), REP_OUTS(0x70, 0x51000), VMCALL);
    prepare(&l2);
    *(uint8_t *)l2_memory(0x51000) = 0x77;
    l1_set_gpr(GPR_RCX, 1);
    l1_vmlaunch();
    expect_exit(EXIT_VMCALL);
    assert_int_equal(*(uint8_t *)l2_memory(0x51008), 0x77);
}

static const struct CMUnitTest tests[] = {
    BOTH(l2_closes_a_port_to_itself),
    BOTH_WITH(l2_closes_a_port_to_itself, ", moving", .cpu_count = 2, .move_one_in = 2),
    BOTH(l2_opens_a_port_to_itself),
    BOTH(strings_pass),
};

int main(void)
{
    return cmocka_run_group_tests_name("ports", tests, NULL, NULL);
}
