// SPDX-License-Identifier: MIT
// The VMCS region in memory: the revision identifier and the VMX-abort indicator are the manual's; everything
// behind them is the processor's own, and here it is different in every machine and at every address, so
// that software that looks at it, copies it or patches it is found out.
// Manual: Format of the VMCS Region.
#include "model.h"
#include <string.h>

#define MARK_AT     8u  // "this processor initialised it", or "it is active"
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

// What the words of a region are scrambled with.
static uint64_t region_key(const struct machine *machine, uint64_t region)
{
    return mix(machine->layout_key ^ mix(region));
}

static uint64_t word_key(uint64_t key, unsigned at)
{
    return key + at * 0x9e3779b97f4a7c15ull;
}

// Where each field is: a permutation of the slots (multiplication by a number without a common divisor).
void vmcs_region_make_layout(struct machine *machine)
{
    static const unsigned primes[] = {211, 223, 227, 229, 233, 239, 241, 251};
    unsigned start = (unsigned)(machine->layout_key >> 8) % F_COUNT;
    for (unsigned field = 0; field < F_COUNT; field++)
        machine->slot[field] = (uint16_t)((field * primes[machine->layout_key & 7] + start) % F_COUNT);
}

static uint64_t checksum(const uint8_t *page)
{
    uint64_t sum = 0, words[(CHECK_AT - MARK_AT) / 8];
    memcpy(words, page + MARK_AT, sizeof(words));
    for (unsigned i = 0; i < sizeof(words) / 8; i++)
        sum += (words[i] ^ words[i] >> 31) * (2 * i + 0x9e3779b97f4a7c15ull);
    return mix(sum);
}

uint32_t vmcs_region_revision(const struct machine *machine, uint64_t region)
{
    return (uint32_t)memory_read(machine, region, 4);
}

static uint64_t active_mark(uint64_t key)
{
    return word_key(key, MARK_AT) ^ 0xac71fe;
}

void vmcs_region_store(struct machine *machine, uint64_t region, const struct vmcs_data *data)
{
    uint8_t *page = machine->memory + region;
    uint64_t key = region_key(machine, region), words[F_COUNT];
    uint64_t launched = word_key(key, LAUNCHED_AT) ^ data->launched, mark = word_key(key, MARK_AT);
    memcpy(page + MARK_AT, &mark, 8);
    memcpy(page + LAUNCHED_AT, &launched, 8);
    for (unsigned field = 0; field < F_COUNT; field++) {
        unsigned slot = machine->slot[field];
        words[slot] = data->field[field] ^ word_key(key, FIELDS_AT + slot);
        page[FIELDS_AT + 8 * F_COUNT + slot] = data->written[field] ^ (uint8_t)mark;
    }
    memcpy(page + FIELDS_AT, words, sizeof(words));
    uint64_t sum = checksum(page);
    memcpy(page + CHECK_AT, &sum, 8);
    vmcs_record(machine, region)->left = sum;
}

// What memory holds while the VMCS is active is nobody's business: some fields as they are, some as they
// were, some neither, as `random` wants it.
void vmcs_region_scatter(const struct machine *machine, uint64_t region, const struct vmcs_data *data,
                         uint64_t random)
{
    uint8_t *page = machine->memory + region;
    uint64_t key = region_key(machine, region), mark = active_mark(key);
    memcpy(page + MARK_AT, &mark, 8);
    for (unsigned field = 0; field < F_COUNT; field++) {
        unsigned slot = machine->slot[field];
        uint64_t word = data->field[field] ^ word_key(key, FIELDS_AT + slot);
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        if (random >> 62 == 0)
            continue;
        if (random >> 62 == 1)
            word = random;
        memcpy(page + FIELDS_AT + 8 * slot, &word, 8);
    }
}

enum region_state vmcs_region_load(struct machine *machine, uint64_t region, struct vmcs_data *data)
{
    const uint8_t *page = machine->memory + region;
    uint64_t mark, launched, sum, words[F_COUNT], key = region_key(machine, region);
    memcpy(&mark, page + MARK_AT, 8);
    memcpy(&launched, page + LAUNCHED_AT, 8);
    memcpy(&sum, page + CHECK_AT, 8);
    memset(data, 0, sizeof(*data));
    data->shadow = vmcs_region_revision(machine, region) >> 31;
    if (mark == active_mark(key))
        return REGION_ACTIVE;
    if (mark != word_key(key, MARK_AT))
        return REGION_FRESH;
    if (sum != checksum(page))
        return REGION_DAMAGED;
    if (sum != vmcs_record(machine, region)->left)
        return REGION_STALE;
    data->launched = (launched ^ word_key(key, LAUNCHED_AT)) & 1;
    memcpy(words, page + FIELDS_AT, sizeof(words));
    for (unsigned field = 0; field < F_COUNT; field++) {
        unsigned slot = machine->slot[field];
        data->field[field] = words[slot] ^ word_key(key, FIELDS_AT + slot);
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
