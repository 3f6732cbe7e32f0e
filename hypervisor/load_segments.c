// SPDX-License-Identifier: MIT
// The flat segments that both boot protocols start L1 with.
#include "load_plan.h"

// Access rights as in the VMCS: type 0xb (code, read) or 3 (data, write), S, P, G, and L or D/B.
#define ACCESS_CODE_64  0xa09bu
#define ACCESS_CODE_32  0xc09bu
#define ACCESS_DATA     0xc093u
#define ACCESS_TSS      0x008bu // busy, as VM entry demands of a usable TR
#define ACCESS_UNUSABLE 0x10000u

void load_set_segments(const struct load_plan *plan, struct l1_start_state *start, uint64_t gdt,
                       bool code_is_64bit)
{
    uint8_t *table = plan->request->memory + gdt;
    load_put64(table, 0);
    load_put64(table + 8, 0);
    load_put64(table + LOAD_CODE_SELECTOR, code_is_64bit ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    load_put64(table + LOAD_DATA_SELECTOR, 0x00cf93000000ffff);

    const struct l1_segment data = {
        .selector = LOAD_DATA_SELECTOR, .access_rights = ACCESS_DATA, .limit = UINT32_MAX};
    start->cs = (struct l1_segment){
        .selector = LOAD_CODE_SELECTOR,
        .access_rights = code_is_64bit ? ACCESS_CODE_64 : ACCESS_CODE_32,
        .limit = UINT32_MAX,
    };
    start->ds = start->es = start->fs = start->gs = start->ss = data;
    start->tr = (struct l1_segment){.access_rights = ACCESS_TSS, .limit = 0xffff};
    start->ldtr = (struct l1_segment){.access_rights = ACCESS_UNUSABLE};
    start->gdtr_base = gdt;
    start->gdtr_limit = LOAD_GDT_SIZE - 1;
    start->idtr_base = 0;
    start->idtr_limit = 0; // any exception before L1 has an IDT of its own is a triple fault
}
