// SPDX-License-Identifier: MIT
// What must hold of the tables in include/nvmx: VMCS fields, exits, controls.
#include <nvmx/nvmx.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum width_name {
    WIDTH_16 = VMCS_WIDTH_16,
    WIDTH_64 = VMCS_WIDTH_64,
    WIDTH_32 = VMCS_WIDTH_32,
    WIDTH_N = VMCS_WIDTH_N
};
enum type_name {
    TYPE_CONTROL = VMCS_TYPE_CONTROL,
    TYPE_INFO = VMCS_TYPE_INFO,
    TYPE_GUEST = VMCS_TYPE_GUEST,
    TYPE_HOST = VMCS_TYPE_HOST
};

static const struct row {
    const char *name;
    uint32_t encoding, width, type;
    const char *exists, *entry, *exit;
} rows[] = {
#define FIELD(name, encoding, width, type, exists, entry, exit)                                              \
    {#name, encoding, WIDTH_##width, TYPE_##type, #exists, #entry, #exit},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

// The revision identifier that L1 is told is tied to the layout of a vmcs12 region: to this table, in its
// order.
static uint32_t revision_of(const struct row *row, size_t count)
{
    uint32_t sum = 0x504c54;
    for (size_t i = 0; i < count; i++)
        sum += (row[i].encoding + 1) * (2 * (uint32_t)i + 1) * 0x9e3779b1u;
    return sum & 0x7fffffff;
}

static void the_revision_identifier_is_of_the_layout(void **state)
{
    (void)state;
    static const struct nvmx_caps nothing;
    struct nvmx_caps offered;
    nvmx_caps_offer(&nothing, &offered);
    uint32_t revision = (uint32_t)offered.msr[0];
    assert_int_equal(revision, revision_of(rows, ROW_COUNT));
    assert_true(revision != revision_of(rows, ROW_COUNT - 1)); // a field less
    for (size_t i = 0; i + 1 < ROW_COUNT; i++) {
        struct row other[ROW_COUNT];
        memcpy(other, rows, sizeof(rows));
        other[i] = rows[i + 1];
        other[i + 1] = rows[i];
        assert_true(revision != revision_of(other, ROW_COUNT));
    }
}

static void fields_agree_with_their_encodings(void **state)
{
    (void)state;
    assert_int_equal(ROW_COUNT, F_COUNT);
    for (unsigned i = 0; i < ROW_COUNT; i++) {
        if (vmcs_encoding_width(rows[i].encoding) != rows[i].width ||
            vmcs_encoding_type(rows[i].encoding) != rows[i].type)
            fail_msg("%s: width or type is not what encoding %#x says", rows[i].name, rows[i].encoding);
        if ((rows[i].encoding & ~VMCS_ENCODING_MASK) || (rows[i].encoding & 0x1001))
            fail_msg("%s: encoding %#x has reserved bits, or is a high half", rows[i].name, rows[i].encoding);
    }
}

static void encodings_are_unique_and_in_order(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ROW_COUNT; i++) {
        for (unsigned k = 0; k < i; k++)
            if (rows[i].encoding == rows[k].encoding || strcmp(rows[i].name, rows[k].name) == 0)
                fail_msg("%s and %s have one encoding or one name", rows[i].name, rows[k].name);
        if (i > 0 && rows[i].encoding < rows[i - 1].encoding)
            fail_msg("%s is out of order", rows[i].name);
    }
}

// The segment fields are taken by index in several places.
static void segments_lie_in_a_row(void **state)
{
    (void)state;
    static const uint32_t first[] = {VMCS_GUEST_ES_SELECTOR, VMCS_GUEST_ES_LIMIT, VMCS_GUEST_ES_ACCESS_RIGHTS,
                                     VMCS_GUEST_ES_BASE};
    for (unsigned kind = 0; kind < 4; kind++)
        for (unsigned i = 0; i < 8; i++) {
            bool found = false;
            for (unsigned row = 0; row < ROW_COUNT; row++)
                found |= rows[row].encoding == first[kind] + 2 * i;
            assert_true(found);
        }
    assert_int_equal(F_GUEST_TR_SELECTOR - F_GUEST_ES_SELECTOR, 7);
    assert_int_equal(F_GUEST_TR_LIMIT - F_GUEST_ES_LIMIT, 7);
    assert_int_equal(F_GUEST_TR_ACCESS_RIGHTS - F_GUEST_ES_ACCESS_RIGHTS, 7);
    assert_int_equal(F_GUEST_TR_BASE - F_GUEST_ES_BASE, 7);
    assert_int_equal(F_GUEST_PDPTE3 - F_GUEST_PDPTE0, 3);
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

// Policies that do not fit the kind of field.
static void policies_fit_the_kind_of_field(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ROW_COUNT; i++) {
        const struct row *r = &rows[i];
        bool host = r->type == TYPE_HOST, info = r->type == TYPE_INFO, guest = r->type == TYPE_GUEST;
        if (host && strcmp(r->entry, "CONSTANT") != 0 && strcmp(r->entry, "CPU") != 0 &&
            strcmp(r->entry, "NEVER") != 0)
            fail_msg("%s: vmcs02's host state is L0's", r->name);
        if (!host && strcmp(r->entry, "CPU") == 0)
            fail_msg("%s: only host state depends on the logical processor", r->name);
        if (info && strcmp(r->entry, "NEVER") != 0)
            fail_msg("%s: read-only data is not written", r->name);
        if (!guest &&
            (starts_with(r->exit, "SAVE") || strcmp(r->entry, "HOT") == 0 || strcmp(r->entry, "RARE") == 0))
            fail_msg("%s: only guest state is saved, or is vmcs12's as it is", r->name);
        if (strcmp(r->exit, "RECORD") == 0 && !info)
            fail_msg("%s: only read-only data is recorded", r->name);
        if (guest && strcmp(r->entry, "RARE") == 0 && strcmp(r->exit, "KEEP") == 0)
            fail_msg("%s: L2 changes guest state, and L1 wants to see it", r->name);
    }
}

static const struct {
    unsigned number;
    const char *name;
} exits[] = {
#define EXIT(number, name, route, info) {number, #name},
#include <nvmx/exits.def>
#undef EXIT
};

static void exits_are_dense(void **state)
{
    (void)state;
    unsigned count = sizeof(exits) / sizeof(exits[0]);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(exits[i].number, i);
        assert_string_equal(nvmx_exit_name(i), exits[i].name);
    }
    assert_int_equal(EXIT_REASON_COUNT, count);
    assert_string_equal(nvmx_exit_name(count), "?");
    assert_string_equal(nvmx_exit_name(0xffff), "?");
}

// A few numbers that the manual gives, told here once more: a slip in the tables would shift them all.
static void well_known_numbers(void **state)
{
    (void)state;
    assert_int_equal(EXIT_CPUID, 10);
    assert_int_equal(EXIT_VMCALL, 18);
    assert_int_equal(EXIT_CONTROL_REGISTER_ACCESS, 28);
    assert_int_equal(EXIT_ENTRY_FAILURE_GUEST_STATE, 33);
    assert_int_equal(EXIT_EPT_VIOLATION, 48);
    assert_int_equal(EXIT_PREEMPTION_TIMER, 52);
    assert_int_equal(EXIT_XRSTORS, 64);
    assert_int_equal(EXIT_UMWAIT, 67);
    assert_int_equal(EXIT_BUS_LOCK, 74);
    assert_int_equal(EXIT_SEAMCALL, 76);
    assert_int_equal(EXIT_TDCALL, 77);
    assert_int_equal(EXIT_WRMSRNS_IMMEDIATE, 85);
    assert_int_equal(VMCS_GUEST_RIP, 0x681e);
    assert_int_equal(VMCS_EXIT_REASON, 0x4402);
    assert_int_equal(VMCS_EPT_POINTER, 0x201a);
    assert_int_equal(VMCS_HOST_RIP, 0x6c16);
    assert_int_equal(VMCS_PREEMPTION_TIMER_VALUE, 0x482e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_agree_with_their_encodings),
        cmocka_unit_test(the_revision_identifier_is_of_the_layout),
        cmocka_unit_test(encodings_are_unique_and_in_order),
        cmocka_unit_test(segments_lie_in_a_row),
        cmocka_unit_test(policies_fit_the_kind_of_field),
        cmocka_unit_test(exits_are_dense),
        cmocka_unit_test(well_known_numbers),
    };
    return cmocka_run_group_tests_name("tables", tests, NULL, NULL);
}
