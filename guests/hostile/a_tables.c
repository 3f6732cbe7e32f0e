// SPDX-License-Identifier: MIT
// Descriptor tables and page tables that end early, or that are where no memory is.
#include "console.h"
#include "hostile.h"
#include "x86.h"

static struct x86_table_pointer pointer;

// The table's pointer is at RSI; then the code.
static struct probe with_table(struct cpu *cpu, const char *code, uint32_t size, uint64_t base,
                               uint32_t limit, uint64_t rax)
{
    struct probe probe = {.code = code, .size = size};
    pointer = (struct x86_table_pointer){(uint16_t)limit, base};
    probe.gpr[GPR_RSI] = cpu_physical(&pointer);
    probe.gpr[GPR_RAX] = rax;
    probe_run(cpu, &probe);
    return probe;
}

#define LGDT_MOV_DS "\x0f\x01\x16\x8e\xd8"
#define LGDT_LTR    "\x0f\x01\x16\x0f\x00\xd8"
#define LIDT        "\x0f\x01\x1e"

void attack_tables(struct cpu *cpu)
{
    uint64_t gdt = x86_sgdt().base, idt = x86_sidt().base, l0 = space_l0() ? space_l0() : space_hole();
    struct probe probe = with_table(cpu, CODE(LGDT_MOV_DS), gdt, 0xf, SELECTOR_DATA);
    outcome_should(cpu, "GDT of two entries, the third one", &probe, VECTOR_GP, SELECTOR_DATA);
    probe = with_table(cpu, CODE(LGDT_MOV_DS), gdt, 0x16, SELECTOR_DATA);
    outcome_should(cpu, "GDT that ends in an entry", &probe, VECTOR_GP, SELECTOR_DATA);
    probe = with_table(cpu, CODE(LGDT_LTR), gdt, 0x3f, SELECTOR_TSS);
    outcome_should(cpu, "TSS descriptor half beyond the GDT", &probe, VECTOR_GP, SELECTOR_TSS);
    probe = with_table(cpu, CODE(LGDT_LTR), gdt, 0xff, SELECTOR_DATA);
    outcome_should(cpu, "LTR of a data segment", &probe, VECTOR_GP, SELECTOR_DATA);
    probe = with_table(cpu, CODE("\x0f\x01\x16"), 1ull << 47, 0xff, 0);
    outcome_should(cpu, "GDT not canonical", &probe, VECTOR_GP, 0);
    probe = with_table(cpu, CODE(LIDT), 1ull << 47, 0xff, 0);
    outcome_should(cpu, "IDT not canonical", &probe, VECTOR_GP, 0);
    // LAR, and the old GDT again before anything else is read from there: INT3 takes its CS from it.
    probe = (struct probe){.code = "\x0f\x01\x16\x0f\x02\xd8\x0f\x01\x17", .size = 9};
    struct x86_table_pointer old = x86_sgdt();
    pointer = (struct x86_table_pointer){0xffff, l0};
    probe.gpr[GPR_RSI] = cpu_physical(&pointer);
    probe.gpr[GPR_RDI] = cpu_physical(&old);
    probe.gpr[GPR_RAX] = SELECTOR_DATA;
    probe_run(cpu, &probe);
    outcome(cpu, "GDT in L0's memory or a hole", &probe);
    outcome_number(cpu, "the access rights there", probe.gpr[GPR_RBX], 0xffff00);
    probe = with_table(cpu, CODE(LIDT "\xcd\x20"), idt, 0x1ff, 0);
    outcome_should(cpu, "INT beyond the IDT", &probe, VECTOR_GP, 0x20 * 8 + 2);
    probe = with_table(cpu, CODE(LIDT "\xcd\x1f"), idt, 0x1fe, 0);
    outcome_should(cpu, "INT whose gate is not all there", &probe, VECTOR_GP, 0x1f * 8 + 2);
    probe = (struct probe){.code = "\xff\x2e", .size = 2}; // far JMP to a TSS: no task switch in IA-32e mode
    uint32_t *far = window_memory(PAGE_KERNEL);
    far[0] = 0;
    far[1] = SELECTOR_TSS_32;
    probe.gpr[GPR_RSI] = PAGE_AT(PAGE_KERNEL);
    probe_run(cpu, &probe);
    outcome_should(cpu, "far JMP to a TSS", &probe, VECTOR_GP, SELECTOR_TSS_32);
    far[1] = SELECTOR_GATE;
    probe_run(cpu, &probe);
    outcome(cpu, "far JMP to a task gate", &probe);
    probe = (struct probe){.code = "\xcf", .size = 1, .rflags = RFLAGS_NT};
    probe_run(cpu, &probe);
    outcome_should(cpu, "IRET with NT", &probe, VECTOR_GP, 0);
}

// Every entry is all ones: reserved bits are set, and no handler can be reached either.
void attack_end_paging_in_l0(struct cpu *cpu)
{
    (void)cpu;
    x86_write_cr3(space_l0() ? space_l0() : space_hole());
}

void attack_end_idt_in_l0(struct cpu *cpu)
{
    with_table(cpu, CODE(LIDT "\x0f\x0b"), space_l0() ? space_l0() : space_hole(), 0xfff, 0);
}
