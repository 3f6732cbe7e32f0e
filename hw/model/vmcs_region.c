// SPDX-License-Identifier: MIT
// The VMCS region in memory: the revision identifier and the VMX-abort indicator are the manual's; everything
// behind them is the processor's own, and here it is different in every machine and at every address, so
// that software that looks at it, copies it or patches it is found out.
// Manual: Format of the VMCS Region.
#include "model.h"
#include <string.h>

#define MARK_AT     8u  // "this processor initialised it"
#define LAUNCHED_AT 16u //
#define FIELDS_AT   64u // F_COUNT words
#define CHECK_AT    (PAGE_SIZE - 8)

_Static_assert(FIELDS_AT + 9 * (F_COUNT + 1) < CHECK_AT, "the fields and their flags fit the region");

static uint64_t mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdull;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53ull;
    return value ^ value >> 33;
}

static uint64_t key_of(const struct machine *machine, uint64_t region, uint64_t what)
{
    return mix(machine->layout_key ^ mix(region + what));
}

// Where field number `field` is: a permutation of the slots (multiplication by a number without a common
// divisor).
static unsigned slot_of(const struct machine *machine, unsigned field)
{
    static const unsigned primes[] = {211, 223, 227, 229, 233, 239, 241, 251};
    unsigned start = (unsigned)(machine->layout_key >> 8) % F_COUNT;
    return (field * primes[machine->layout_key & 7] + start) % F_COUNT;
}

static uint64_t checksum(const uint8_t *page)
{
    uint64_t sum = 0;
    for (unsigned at = MARK_AT; at < CHECK_AT; at += 8) {
        uint64_t word;
        memcpy(&word, page + at, 8);
        sum = mix(sum ^ word);
    }
    return sum;
}

uint32_t vmcs_region_revision(const struct machine *machine, uint64_t region)
{
    return (uint32_t)memory_read(machine, region, 4);
}

void vmcs_region_store(const struct machine *machine, uint64_t region, const struct vmcs_data *data)
{
    uint8_t *page = machine->memory + region;
    uint64_t mark = key_of(machine, region, MARK_AT);
    uint64_t launched = key_of(machine, region, LAUNCHED_AT) ^ data->launched;
    memcpy(page + MARK_AT, &mark, 8);
    memcpy(page + LAUNCHED_AT, &launched, 8);
    for (unsigned field = 0; field < F_COUNT; field++) {
        unsigned slot = slot_of(machine, field);
        uint64_t word = data->field[field] ^ key_of(machine, region, FIELDS_AT + slot);
        memcpy(page + FIELDS_AT + 8 * slot, &word, 8);
        page[FIELDS_AT + 8 * F_COUNT + slot] = data->written[field] ^ (uint8_t)mark;
    }
    uint64_t sum = checksum(page);
    memcpy(page + CHECK_AT, &sum, 8);
}

enum region_state vmcs_region_load(const struct machine *machine, uint64_t region, struct vmcs_data *data)
{
    const uint8_t *page = machine->memory + region;
    uint64_t mark, launched, sum;
    memcpy(&mark, page + MARK_AT, 8);
    memcpy(&launched, page + LAUNCHED_AT, 8);
    memcpy(&sum, page + CHECK_AT, 8);
    memset(data, 0, sizeof(*data));
    data->shadow = vmcs_region_revision(machine, region) >> 31;
    if (mark != key_of(machine, region, MARK_AT))
        return REGION_FRESH;
    if (sum != checksum(page))
        return REGION_DAMAGED;
    data->launched = (launched ^ key_of(machine, region, LAUNCHED_AT)) & 1;
    for (unsigned field = 0; field < F_COUNT; field++) {
        unsigned slot = slot_of(machine, field);
        uint64_t word;
        memcpy(&word, page + FIELDS_AT + 8 * slot, 8);
        data->field[field] = word ^ key_of(machine, region, FIELDS_AT + slot);
        data->written[field] = page[FIELDS_AT + 8 * F_COUNT + slot] ^ (uint8_t)mark;
    }
    return REGION_INITIALIZED;
}

// A recognisable wrong value; the same on every processor of a machine, so that the bare machine and the
// nested one can be compared.
uint64_t model_poison(const struct machine *machine, uint64_t region, enum vmcs_field field)
{
    (void)region;
    uint64_t value = (mix(machine->config.seed ^ (field + 1)) & 0x0000ffffffffffff) | 0xbad0000000000000;
    if (vmcs_encoding_width(model_field_encoding(field)) == VMCS_WIDTH_32)
        value = (value & 0xffff) | 0x0bad0000;
    return model_field_truncate(field, value);
}
