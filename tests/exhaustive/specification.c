// SPDX-License-Identifier: MIT
// What L1 must see of its VMX operation. Manual: VMX Instruction Reference; VM Entries (Basic VM-Entry
// Checks); Restrictions on VMX Operation. Where the manual leaves it open, what the engine's documentation
// says: VMXOFF stores the current VMCS, and a reset loses what was not stored.
#include "life.h"

enum who { L1, L2, L0 };

bool specified_applies(const struct specified *s, enum operation operation)
{
    static const enum who who[OPERATION_COUNT] = {
#define OPERATION(name, words, who) [DO_##name] = (who),
        OPERATIONS(OPERATION)
#undef OPERATION
    };
    if (operation == DO_VMWRITE || operation == DO_VMREAD || operation == DO_BREAK)
        return !s->in_l2 && s->vmxon && s->current >= 0; // without a VMCS: the other VMX instructions tell
    return who[operation] == L0 || (who[operation] == L2) == s->in_l2;
}

static struct expected fail(const struct specified *s, uint32_t error)
{
    if (s->current < 0)
        return (struct expected){.result = RESULT_FAIL_INVALID};
    return (struct expected){.result = RESULT_FAIL_VALID, .error = error};
}

static void leave_current(struct specified *s)
{
    if (s->current >= 0)
        s->stored[s->current] = s->vmcs[s->current];
    s->current = -1;
}

static struct expected step_vmclear(struct specified *s, int which)
{
    s->vmcs[which].launched = s->stored[which].launched = false;
    if (s->current == which)
        leave_current(s);
    return (struct expected){.result = RESULT_SUCCEED};
}

static struct expected step_vmptrld(struct specified *s, int which)
{
    if (s->current != which) {
        leave_current(s);
        s->current = which;
    }
    return (struct expected){.result = RESULT_SUCCEED};
}

static struct expected step_entry(struct specified *s, bool launch)
{
    if (s->current < 0)
        return (struct expected){.result = RESULT_FAIL_INVALID};
    const struct vmcs_specified *vmcs = &s->vmcs[s->current];
    if (launch && vmcs->launched)
        return fail(s, 4);
    if (!launch && !vmcs->launched)
        return fail(s, 5);
    if (vmcs->fault == FAULT_CONTROLS)
        return fail(s, 7);
    if (vmcs->fault == FAULT_GUEST)
        return (struct expected){.result = RESULT_EXIT, .reason = 33 | EXIT_REASON_ENTRY_FAILURE};
    s->vmcs[s->current].launched = true;
    s->in_l2 = true;
    return (struct expected){.result = RESULT_IN_L2};
}

static struct expected step_exit(struct specified *s, uint32_t reason)
{
    s->in_l2 = false;
    return (struct expected){.result = RESULT_EXIT, .reason = reason};
}

static struct expected step_l1(struct specified *s, enum operation operation)
{
    struct vmcs_specified *vmcs = &s->vmcs[s->current < 0 ? 0 : s->current];
    if (!s->vmxon && operation != DO_VMXON)
        return (struct expected){.result = RESULT_UNDEFINED_OPCODE};
    switch (operation) {
    case DO_VMXON:
        if (s->vmxon)
            return fail(s, 15);
        s->vmxon = true;
        break;
    case DO_VMXOFF:
        leave_current(s);
        s->vmxon = false;
        break;
    case DO_VMCLEAR_A:
    case DO_VMCLEAR_B:
        return step_vmclear(s, operation == DO_VMCLEAR_B);
    case DO_VMPTRLD_A:
    case DO_VMPTRLD_B:
        return step_vmptrld(s, operation == DO_VMPTRLD_B);
    case DO_VMLAUNCH:
    case DO_VMRESUME:
        return step_entry(s, operation == DO_VMLAUNCH);
    case DO_VMWRITE:
        vmcs->value ^= 1;
        break;
    case DO_BREAK:
        vmcs->fault = (vmcs->fault + 1) % FAULT_COUNT;
        break;
    default:
        break;
    }
    return (struct expected){.result = RESULT_SUCCEED};
}

struct expected specified_step(struct specified *s, enum operation operation)
{
    struct expected stays = {.result = s->in_l2 ? RESULT_IN_L2 : RESULT_SUCCEED};
    switch (operation) {
    case DO_L2_EXITS:
        return step_exit(s, EXIT_CPUID);
    case DO_L2_INIT:
        return step_exit(s, EXIT_INIT_SIGNAL);
    case DO_L2_STAYS:
        return stays;
    case DO_L2_WRITES:
        s->vmcs[s->current].fs_base ^= 1;
        return stays;
    case DO_RESET:
        if (s->current >= 0)
            s->vmcs[s->current] = s->stored[s->current];
        *s = (struct specified){
            .current = -1, .vmcs = {s->vmcs[0], s->vmcs[1]}, .stored = {s->vmcs[0], s->vmcs[1]}};
        return (struct expected){.result = RESULT_SUCCEED};
    case DO_MOVE:
    case DO_PUT_LOAD:
    case DO_LOSE:
    case DO_WRITE_BACK:
        return stays;
    default:
        return step_l1(s, operation);
    }
}
