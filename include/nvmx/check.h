// SPDX-License-Identifier: MIT
// The VM-entry checks (checks.def) as a table, and their application to the fields of a VMCS: for the engine
// itself, for L0's explanations of failed entries, and for tools on the host.
#ifndef NVMX_CHECK_H
#define NVMX_CHECK_H

#include <nvmx/caps.h>
#include <nvmx/vmcs.h>

struct nvmx_vcpu;

// In the order in which they are applied (VM Entries).
enum check_stage {
    STAGE_CONTROLS,
    STAGE_CONTROLS_HOT,
    STAGE_HOST,
    STAGE_GUEST,
    STAGE_GUEST_HOT,
    STAGE_COUNT
};

// Index of a rule in check_rules; check_rules[i].number is its stable number.
enum check_index {
#define CHECK(number, id, stage, field, qualification, section, message, broken, legal) CHECK_##id,
#include <nvmx/checks.def>
#undef CHECK
    CHECK_COUNT
};

struct check_rule {
    const char *id;      // "GUEST_TR_NOT_BUSY"
    const char *message; // "type must be 11, or 3 outside IA-32e mode"
    const char *section; // of the manual, by title
    uint16_t number;
    uint16_t field; // enum vmcs_field: the one to look at
    uint8_t stage;
    uint8_t qualification; // of exit 33
};
extern const struct check_rule check_rules[CHECK_COUNT];

// What the rules are applied to.
struct check_input {
    const uint64_t *field; // F_COUNT values
    const struct nvmx_caps *caps;
    uint64_t physical_address_width; // bits
    bool long_mode;                  // the processor that executes VMLAUNCH is in IA-32e mode
    const uint64_t *pdpte;           // the four in memory at CR3, of an L2 without EPT; NULL: unknown
    struct nvmx_vcpu
        *vcpu; // whose memory rules about pointers look into; NULL: memory is unknown, such rules hold
};

struct check_broken {
    uint16_t index;        // enum check_index
    uint64_t value, legal; // the field's, and one near it with which this rule would hold
};

#define CHECK_REPORT_MAX 24
struct check_report {
    uint32_t count;                               // rules that are broken; at most CHECK_REPORT_MAX are kept
    struct check_broken broken[CHECK_REPORT_MAX]; // in the order of checks.def
};

// Applies stages, bits of 1 << enum check_stage, in their order, up to the first with broken rules, which it
// returns; STAGE_COUNT: none is broken. Adds the broken rules to the report. Pure, but for reading the memory
// of input->vcpu.
enum check_stage check_stages(const struct check_input *input, uint32_t stages, struct check_report *report);

// ... of one stage
void check_stage(const struct check_input *input, enum check_stage stage, struct check_report *report);

// ... and only those of STAGE_GUEST_HOT about guest RIP, which is what most entries change. true: none is
// broken.
bool check_rip(const struct check_input *input, struct check_report *report);

// For a person, one line: "GUEST_TR_NOT_BUSY: guest TR access rights 0x0089: type must be 11, or 3 outside
// IA-32e mode (Checks on Guest Segment Registers)". Always terminates the text; returns its length, at most
// size - 1.
size_t check_describe(const struct check_broken *broken, char *text, size_t size);
#define CHECK_DESCRIPTION_MAX 320 // bytes that hold every description

// The manual's words for a field: "guest TR access rights". As above.
size_t check_field_words(enum vmcs_field field, char *text, size_t size);

// The bits that IA32_DEBUGCTL defines; bus-lock detection is one where the processor has it.
static inline uint64_t check_debugctl_known(const struct nvmx_caps *caps)
{
    return 0xffc3u | ((caps->features & FEATURE_BUS_LOCK_DETECTION) != 0 ? 1u << 2 : 0);
}

// Is the value an EPT pointer that VM entry and INVEPT accept?
bool check_ept_pointer(const struct nvmx_caps *caps, uint64_t physical_address_width, uint64_t ept_pointer);

#endif
