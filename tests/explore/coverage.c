// SPDX-License-Identifier: MIT
// What the scripts reached, seen on the bare machine; and what they never did, for a person to extend the
// generator.
#include "explore.h"

static struct {
    uint64_t exit[EXIT_REASON_COUNT], failed_entry[EXIT_REASON_COUNT];
    uint64_t vmfail[32], vmfail_invalid, exceptions_of_l1[256];
    uint64_t entered[2], operations[2][OP_KIND_COUNT];
    uint32_t set[5], clear[5], offered[5]; // controls of successful entries
    uint64_t moves, actions, write_backs, pokes, wakes;
    uint64_t scripts, undefined;
    char undefined_sentence[400];
} covered;

static void cover_controls(const struct hw_cpu *cpu)
{
    const uint64_t *field = cpu->current->data.field;
    static const enum vmcs_field words[5] = {F_PIN_BASED_CONTROLS, F_PRIMARY_CONTROLS, F_SECONDARY_CONTROLS,
                                             F_VM_EXIT_CONTROLS, F_VM_ENTRY_CONTROLS};
    bool secondary = field[F_PRIMARY_CONTROLS] & PRIMARY_ACTIVATE_SECONDARY;
    for (unsigned i = 0; i < 5; i++) {
        uint32_t value = i == WORD_SECONDARY && !secondary ? 0 : (uint32_t)field[words[i]];
        covered.offered[i] |= allowed1((enum control_word)i) & ~allowed0((enum control_word)i);
        covered.set[i] |= value;
        covered.clear[i] |= ~value;
    }
}

static void cover_exit(const struct hw_cpu *cpu)
{
    uint64_t reason = cpu->current->data.field[F_EXIT_REASON];
    uint64_t basic = reason & EXIT_REASON_BASIC_MASK;
    if (basic < EXIT_REASON_COUNT)
        (reason & EXIT_REASON_ENTRY_FAILURE ? covered.failed_entry : covered.exit)[basic]++;
}

static void cover_vmx_instruction(const struct hw_cpu *cpu, const struct op *op, unsigned level)
{
    bool entry = op->kind == OP_VMLAUNCH || op->kind == OP_VMRESUME;
    bool handler = cpu->r.rip >= L1_PADS && cpu->r.rip < L1_PADS + 16 * 32 && !(cpu->r.rip & 15);
    if (level == 2) {
        if (entry) {
            covered.entered[op->kind == OP_VMRESUME]++;
            cover_controls(cpu);
        }
    } else if (entry && cpu->r.rip == L1_EXIT_PAD && cpu->current != NULL) {
        if (!(cpu->current->data.field[F_EXIT_REASON] & EXIT_REASON_ENTRY_FAILURE)) {
            covered.entered[op->kind == OP_VMRESUME]++;
            cover_controls(cpu);
        }
        cover_exit(cpu);
    } else if (handler) {
        covered.exceptions_of_l1[(cpu->r.rip - L1_PADS) / 16 & 0xff]++;
    } else if (cpu->r.rflags & RFLAGS_CF) {
        covered.vmfail_invalid++;
    } else if ((cpu->r.rflags & RFLAGS_ZF) && cpu->current != NULL) {
        covered.vmfail[cpu->current->data.field[F_VM_INSTRUCTION_ERROR] & 31]++;
    }
}

void cover_operation(const struct hw_cpu *cpu, const struct op *op, unsigned level, unsigned level_before)
{
    covered.operations[level_before == 2][op->kind]++;
    if (level_before == 2 && level == 1)
        cover_exit(cpu);
    else if (level_before == 1 && op->kind >= OP_VMCALL)
        cover_vmx_instruction(cpu, op, level);
}

void cover_script(const struct script *script, const struct result *result)
{
    covered.scripts++;
    if (result->verdict == VERDICT_UNDEFINED) {
        covered.undefined++;
        snprintf(covered.undefined_sentence, sizeof(covered.undefined_sentence), "%s", result->sentence);
    }
    for (size_t i = 0; i < script->count; i++) {
        unsigned kind = script->step[i].kind;
        covered.moves += kind == STEP_MOVE;
        covered.actions += kind == STEP_L0;
        covered.write_backs += kind == STEP_WRITE_BACK;
        covered.pokes += kind == STEP_POKE;
        covered.wakes += kind == STEP_WAKE;
    }
}

static void print_counts(FILE *to, const char *what, const uint64_t *count, unsigned n, bool by_name)
{
    fprintf(to, "# %s:", what);
    for (unsigned i = 0; i < n; i++)
        if (count[i] != 0 && by_name)
            fprintf(to, " %s %llu", nvmx_exit_name(i), (unsigned long long)count[i]);
        else if (count[i] != 0)
            fprintf(to, " %u: %llu", i, (unsigned long long)count[i]);
    fprintf(to, "\n");
}

static void print_never(FILE *to)
{
    static const char *const words[] = {"pin", "primary", "secondary", "exit", "entry"};
    fprintf(to, "# never reached: exits");
    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++)
        if (covered.exit[i] == 0 && covered.failed_entry[i] == 0)
            fprintf(to, " %s", nvmx_exit_name(i));
    fprintf(to, "; VMfail");
    for (unsigned i = 1; i <= 28; i++)
        if (covered.vmfail[i] == 0)
            fprintf(to, " %u", i);
    fprintf(to, "; controls");
    for (unsigned i = 0; i < 5; i++) {
        if (covered.offered[i] & ~covered.set[i])
            fprintf(to, " %s=%#x never 1", words[i], covered.offered[i] & ~covered.set[i]);
        if (covered.offered[i] & ~covered.clear[i])
            fprintf(to, " %s=%#x never 0", words[i], covered.offered[i] & ~covered.clear[i]);
    }
    fprintf(to, "; operations");
    for (unsigned level = 0; level < 2; level++)
        for (unsigned kind = 0; kind < OP_KIND_COUNT; kind++)
            if (covered.operations[level][kind] == 0 && (level == 1 || kind >= OP_VMCALL) && kind != OP_END)
                fprintf(to, " L%u:%s", level + 1, op_name((enum op_kind)kind));
    fprintf(to, "\n");
}

void cover_print(FILE *to)
{
    uint64_t l1 = 0, l2 = 0;
    for (unsigned kind = 0; kind < OP_KIND_COUNT; kind++) {
        l1 += covered.operations[0][kind];
        l2 += covered.operations[1][kind];
    }
    fprintf(to, "# %llu scripts (%llu ended early, last: %s); operations of L1 %llu, of L2 %llu\n",
            (unsigned long long)covered.scripts, (unsigned long long)covered.undefined,
            covered.undefined ? covered.undefined_sentence : "none", (unsigned long long)l1,
            (unsigned long long)l2);
    fprintf(
        to,
        "# entries: VMLAUNCH %llu, VMRESUME %llu; moves %llu, other actions of L0 %llu, write-backs %llu, "
        "pokes %llu, wakes %llu\n",
        (unsigned long long)covered.entered[0], (unsigned long long)covered.entered[1],
        (unsigned long long)covered.moves, (unsigned long long)covered.actions,
        (unsigned long long)covered.write_backs, (unsigned long long)covered.pokes,
        (unsigned long long)covered.wakes);
    print_counts(to, "exits", covered.exit, EXIT_REASON_COUNT, true);
    print_counts(to, "failed entries", covered.failed_entry, EXIT_REASON_COUNT, true);
    print_counts(to, "VMfailValid by number", covered.vmfail, 32, false);
    fprintf(to, "# VMfailInvalid: %llu\n", (unsigned long long)covered.vmfail_invalid);
    print_counts(to, "exceptions of L1's VMX instructions by vector", covered.exceptions_of_l1, 256, false);
    print_never(to);
}
