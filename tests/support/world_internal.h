// SPDX-License-Identifier: MIT
// What the files of the test world share; scenarios include world.h only.
#ifndef TESTS_WORLD_INTERNAL_H
#define TESTS_WORLD_INTERNAL_H

#include "fiber.h"
#include "world.h"
#include <model.h>

// L1-physical address 0 is here in the nested machine; below it is L0, so that an L1-physical address that
// L0 forgot to translate hits memory that no guest may touch.
#define L0_SIZE          0x2000000ull
#define WORLD_VCPU_LIMIT 2
#define IPI_VECTOR       0xf0   // L0's own interrupt: "come out"
#define L0_PORT          0x510u // intercepted by L0: reads as 0x42
#define X2APIC_FIRST     0x800u
#define X2APIC_LAST      0x83fu
#define L0_PASSED_PORT   0x514u // ... and the three behind it: intercepted, and as L1 would find them without

struct virtual_processor {
    unsigned index;
    struct fiber *fiber;
    struct hw_cpu *cpu;     // that it is on
    struct live *live;      // where it fetches its instructions
    uint64_t next;          // where the next instruction of L1 will be
    enum wait_reason why;   // of the last model_wait
    struct nvmx_vcpu *vcpu; // nested
    int move_to;            // at the next opportunity; -1: stay
    int move_in_exit_to;    // before the next exit that L0 handles is handled; -1: stay
    unsigned nmi_count;     // NMIs that L1's handler has taken
    bool reset;             // at the next opportunity
    uint64_t restored_at;   // L2's RIP when its vcpu was last made anew because of a miss
    bool parked;            // its fiber stops between two VM entries, and the test calls l0_step
    enum l0_action action[4], action_in_exit;
    unsigned action_count;
    struct registers start; // of L1
};

struct world {
    struct world_config config;
    struct machine *machine;
    struct processor l1_processor; // what L1 has: bare, the machine's; nested, what the engine offers
    uint64_t l1_base;              // machine address of L1-physical 0
    struct virtual_processor processor[WORLD_VCPU_LIMIT];
    struct virtual_processor *self;
    struct live *pads;
    struct trace trace;
    size_t differs_at; // the first observation that the bare run did not make; 0: none
    uint64_t random;
    // L0
    struct nvmx_caps hardware, offered;
    // Fed worlds: gives the vcpu its next operation, or makes an event pending (true); false: the vcpu waits.
    bool (*feed)(struct virtual_processor *p, enum wait_reason reason);
    uint64_t l0_next_page, l0_end;
    struct nvmx_cpu l0_cpu[MACHINE_CPU_LIMIT];
    uint64_t l0_x2apic[X2APIC_LAST - X2APIC_FIRST + 1]; // emulated: they only hold a value
    uint64_t remote_clear_count;
    unsigned move_one_in, save_restore_one_in;
    uint64_t save_restore_count;
    bool (*between_exits)(void);
    // NULL, or what the model calls instead of waiting for the test.
    void (*on_wait)(struct hw_cpu *cpu, enum wait_reason reason);
    uint64_t move_count, l0_turns; // l0_turns: calls of nvmx_run
    unsigned exception_count;
    unsigned race_one_in;
    unsigned exchange_race_count;
    uint64_t exchange_race_bits;
    char last_log[256];
    struct port_detected detected[F_COUNT]; // of the last refusal
    unsigned detected_count;
    unsigned log_count;
};
extern struct world *world; // NULL: there is none

uint64_t world_random(void);
void world_resume(void); // runs the current vcpu until it wants something of the test

void l0_begin(void); // machine-wide: ept01, VMXON everywhere
void l0_add_vcpu(struct virtual_processor *p, const struct registers *start);
void l0_run(void *argument); // a fiber's body: L0's loop for one vcpu
void l0_end(void);
void l0_maybe_save_and_restore(struct virtual_processor *p);
void *l0_memory(uint64_t address);
void l0_map_hole(struct virtual_processor *p);    // at an EPT violation where L1 has no memory
void l0_handle_exit(struct virtual_processor *p); // that the engine leaves to L0

// For a test that is L0 itself, with a parked vcpu: one VM entry and its exit; what L0 may do between two of
// them.
void l0_step(struct virtual_processor *p);
void l0_act(struct virtual_processor *p, enum l0_action action);
void l0_move(struct virtual_processor *p, unsigned index);
void l0_restart_l1(struct virtual_processor *p, const struct registers *start); // reset, and L1 begins anew

void l2_begin(void);
void l1_begin(struct virtual_processor *p); // builds what L1 has in its memory
void l1_start_state(const struct virtual_processor *p, struct registers *r);

#endif
