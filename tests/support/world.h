// SPDX-License-Identifier: MIT
// The world a scenario runs in: a machine of the model, bare (L1 on the processor itself: the plain
// reference) or nested (L1 under the engine and a small L0). L1 cannot tell which, and neither can a scenario
// that does not ask.
//
// L1 is the test: each l1_ function makes L1's virtual processor execute one instruction, under whatever is
// below it, and says how it ended.
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include "script.h"
#include <machine.h>
#include <nvmx/nvmx.h>
#include <nvmx/port.h>
#include <nvmx/state.h>

struct world_config {
    const struct processor *processor; // of the machine; bare, L1's processor is what the engine offers of it
    unsigned cpu_count;                // logical processors; 0: 1
    unsigned vcpu_count;               // L1's; 0: 1. vcpu k starts on processor k
    uint64_t seed;
    bool nested;
    bool whole_processor; // bare: L1's processor is `processor` itself, with what the engine does not offer
    bool floating;        // L0 owns the interrupts: external-interrupt exiting, acknowledged
    bool l0_without_large_pages; // ept01 of 4-KByte pages only
    bool without_vmcs_shadowing;
    bool overlooks_events;     // the processor below L0 has that defect (and not the bare one)
    bool saves_old_rip;        // ... or that one: mend_rip_of_fetch
    bool exits_before_cpl;     // ... or that one, of XSETBV
    uint32_t l0_exceptions;    // exception bitmap of L0's own; L0 raises what it gets again
    bool l0_contains_exits;    // L0 leaves what it does not expect to nvmx_contain_exit; else the test ends
    bool l0_expects_refusals;  // ... or breaks a rule of vmcs01's on purpose; else the DETECTOR ends the test
    bool l0_emulates_x2apic;   // L1's x2APIC MSRs are L0's emulation, and not the processor's
    uint32_t ept02_pool_pages; // 0: 256
    uint16_t vpid02_count;     // VPIDs that L0 gives a vcpu for its L2s; 0: 4
    bool keeps_caches;         // the scenario counts what is cached: its vcpu is never made anew
    // Nested: at one in so many exits L0 saves the vcpu's state, destroys it and everything it knew, and
    // makes another one of the state. Of a scenario that runs in both worlds, in a third run only; 0: at
    // every exit.
    unsigned save_restore_one_in;
    bool fed;                  // every operation of the guests comes one by one (world_internal.h: feed)
    uint32_t hidden_secondary; // secondary controls that L1 is not offered, whatever the engine would
    unsigned move_one_in; // nested: L0 moves the vcpu to a random logical processor at one in so many exits
};

void world_begin(const struct world_config *config);
void world_end(void);     // checks what must hold at any end
void world_abandon(void); // ... or does not

bool world_is_nested(void);
uint64_t world_seed(void); // the same bare and nested
// What the test is at; the last few notes are printed if it fails.
void world_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
struct machine *world_machine(void);
const struct processor *world_l1_processor(void);

// --- where things are in L1's physical memory (L1's linear addresses are the same)
enum {
    L1_RAM_SIZE = 0x1000000,
    L1_PAGE_TABLES = 0x100000,
    L1_IDT = 0x110000,
    L1_TSS = 0x111000,
    L1_IDT_32 = 0x112000,     // the same handlers, for an L1 in 32-bit mode
    L1_STACK = 0x130000,      // the end of it; 0x1000 bytes a vcpu
    L1_HOST_STACK = 0x140000, //
    L1_REGIONS = 0x200000,    // VMXON region and VMCSs: 0x10000 bytes a vcpu
    L1_SCRATCH = 0x300000,    // operands
    L1_PADS = 0x3f0000,       // where VM exits and exceptions lead
    L1_CODE = 0x400000,       // 0x40000 bytes a vcpu
    L1_TABLES = 0x600000,     // EPT12 and other structures that L1 makes
    L2_RAM = 0x800000,        // L2-physical 0 is here
    L2_RAM_SIZE = 0x400000,
    L1_NOT_MAPPED = 0x40000000, // a linear address without a page
};
void *l1_memory(uint64_t address); // a pointer to L1-physical memory

// --- how an instruction of L1 ended
enum how {
    COMPLETED, // the next instruction is next
    EXCEPTION, // `vector` was raised (and its handler has returned behind the instruction)
    EXITED,    // VMLAUNCH or VMRESUME: L1 is at its host RIP
    IDLE,      // the virtual processor halted, and nothing is pending
    L2_AT_END, // VMLAUNCH or VMRESUME: L2's program ran into its end
};
struct outcome {
    enum how how;
    uint8_t vector;
    uint32_t error_code; // that the exception pushed; 0: none
    bool cf, zf;         // VMfailInvalid, VMfailValid
};
const char *how_name(enum how how);

void l1_use_vcpu(unsigned vcpu); // that the l1_ functions act on from now on
unsigned l1_vcpu(void);
struct outcome l1_execute(struct op op);
struct outcome l1_continue(void);   // after IDLE or L2_AT_END: what happens next
uint64_t l1_gpr(enum nvmx_gpr reg); // of L1, at the end of the last instruction
void l1_set_gpr(enum nvmx_gpr reg, uint64_t value);
uint64_t l1_cr2(void);
unsigned l1_nmi_count(void); // so many NMIs L1's handler has taken
uint64_t l1_rflags(void);
struct hw_cpu *l1_cpu(void); // the logical processor that the vcpu is on
void l1_start(struct op op); // executes it and whatever follows, until somebody waits for something
void l1_run(struct op op);   // l1_execute, and the test fails unless it completed

// --- L0's side, nested only
struct nvmx_vcpu *world_vcpu(void);
// The vcpu is taken off its logical processor at the next exit and loaded on another.
void l0_move_to(unsigned cpu);
// ... after an exit that the engine left to L0, and before L0 handles it.
void l0_move_in_exit_to(unsigned cpu);
enum l0_action {
    L0_DOES_NOTHING,
    L0_PUTS_AND_LOADS,    // the vcpu is put, and loaded where it was
    L0_CLEARS_ALL,        // nvmx_cpu_clear_all where the vcpu is, and it is loaded there again
    L0_RESTARTS_VMX,      // ... with VMXOFF and VMXON of L0's between
    L0_LOSES_PROCESSOR,   // nvmx_cpu_clear_all and VMXOFF where the vcpu is; it goes on on another processor
    L0_RETIRES,           // nvmx_vcpu_retire, and the vcpu is loaded where it was
    L0_RETIRES_ELSEWHERE, // ... asked for on another processor
    L0_RESTARTS_L1,       // reset, and L1 is where VM exits lead, in its 64-bit mode
    L0_PENDS_NMI,         // nvmx_pend_nmi
};
void l0_do(enum l0_action action); // at the next exit; called again, at the one behind it
void l0_do_in_exit(enum l0_action action);
uint64_t l0_remote_clear_count(void);
// L0 may move the vcpu, too, at every exit, at random moments (seeded).
void l0_move_at_random(unsigned one_in);
uint64_t l0_move_count(void);
// ... and save, destroy, make anew and restore it (docs/state.md). 0: never.
void l0_save_and_restore_at_random(unsigned one_in);
struct nvmx_state_verdict l0_become(const void *state, size_t size); // what nvmx_state_set says to a new vcpu
void l0_save_and_restore(void); // now: the caller is L0, between two exits
uint64_t l0_save_and_restore_count(void);
// Called by L0 between exits, until it returns true. It runs on L0's stack: no assertions there.
void l0_call_between_exits(bool (*function)(void));
// The next `count` words of L1's memory that L0 changes by compare-and-exchange: another processor of L1's
// Another processor of L1's changes a bit of what L0 has just read of L1's memory, at one in so many reads.
void l0_race_at_random(unsigned one_in);
// flips these bits just before.
void l0_race_exchanges(unsigned count, uint64_t bits);
void l0_reset_l1(void); // at the next exit: the virtual processor is as after INIT, whatever it was doing
unsigned l0_exception_count(void);
uint64_t world_vmcs01(void), world_vmcs02(void); // regions, as machine_count wants them
const char *l0_last_log(void);
unsigned l0_log_count(void);
unsigned l0_detected_count(void); // lines of bug reports about refused entries; and what one said of a field
struct port_detected l0_detected(enum vmcs_field field);

// --- running a scenario in both worlds, and comparing what guests saw
struct scenario {
    const char *name;
    void (*run)(void);
    struct world_config config;
    bool only_nested; // it looks into L0, or moves it
    bool only_bare;   // it is about the processor itself
    bool apart;       // what guests see may differ: they look at the time, say
};
void scenario_test(void **state); // a cmocka test; *state is a struct scenario
int scenario_teardown(void **state);

#define BOTH(function)                                                                                       \
    {                                                                                                        \
#function, scenario_test, NULL, scenario_teardown, &(struct scenario)                                \
        {                                                                                                    \
            .name = #function, .run = function                                                               \
        }                                                                                                    \
    }
#define BOTH_APART(function)                                                                                 \
    {                                                                                                        \
#function, scenario_test, NULL, scenario_teardown, &(struct scenario)                                \
        {                                                                                                    \
            .name = #function, .run = function, .apart = true                                                \
        }                                                                                                    \
    }
#define NESTED(function, ...)                                                                                \
    {                                                                                                        \
#function, scenario_test, NULL, scenario_teardown, &(struct scenario)                                \
        {                                                                                                    \
            .name = #function, .run = function, .only_nested = true, .config = { __VA_ARGS__ }               \
        }                                                                                                    \
    }
// The model alone, with all that the processor has (not only what the engine offers of it).
#define BARE(function, ...)                                                                                  \
    {                                                                                                        \
#function, scenario_test, NULL, scenario_teardown, &(struct scenario)                                \
        {                                                                                                    \
            .name = #function, .run = function, .only_bare = true, .config = {                               \
                .whole_processor = true,                                                                     \
                __VA_ARGS__                                                                                  \
            }                                                                                                \
        }                                                                                                    \
    }
#define BOTH_WITH(function, suffix, ...)                                                                     \
    {                                                                                                        \
#function suffix, scenario_test, NULL, scenario_teardown, &(struct scenario)                         \
        {                                                                                                    \
            .name = #function suffix, .run = function, .config = { __VA_ARGS__ }                             \
        }                                                                                                    \
    }

// The model stops: for tests that provoke it. false: it did not stop. The sentence stays valid.
bool world_stops(void (*provoke)(void), const char **sentence);

#endif
