// SPDX-License-Identifier: MIT
// The sleep states and the reset of ACPI: which ports lead there, which values mean which state, and hiding
// those that L0 does not survive. Pure: what it reads and changes is bytes of tables, which may hold
// anything.
#ifndef PLASTRON_ACPI_SLEEP_H
#define PLASTRON_ACPI_SLEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACPI_SLEEP_STATES   6 // S0 to S5
#define ACPI_SLEEP_PORT_MAX 5

// The byte of a sleep register that has SLP_TYP (bits 4:2) and SLP_EN (bit 5).
#define ACPI_SLP_TYP(byte) ((byte) >> 2 & 7)
#define ACPI_SLP_EN        0x20u

struct acpi_sleep {
    struct {
        uint16_t port;
        uint8_t block; // 0: PM1a or the sleep control register; 1: PM1b
    } at[ACPI_SLEEP_PORT_MAX];
    uint32_t port_count;
    bool in_memory;      // a sleep register is no I/O port
    uint16_t reset_port; // 0: none, or no I/O port
    uint8_t reset_value;
    uint8_t types[ACPI_SLEEP_STATES][2]; // bit n: SLP_TYP n of that block means the state
};

// The registers that the FADT (all `length` bytes of it) names; and takes S4BIOS from it, in which the
// firmware wakes L1 without L0. true: it was changed, and its checksum is wrong.
bool acpi_sleep_read_fadt(uint8_t *fadt, uint32_t length, struct acpi_sleep *sleep);

// Reads the objects _S0_ to _S5_ in the AML of a DSDT or SSDT, and renames _S1_, _S2_ and _S3_: L1's system
// does not find them then. How many names it changed.
unsigned acpi_sleep_hide(uint8_t *aml, size_t size, struct acpi_sleep *sleep);

// What SLP_TYP `type` of `block` means: 1 to 5; 0: nobody knows. Of a value with several meanings the most
// dangerous.
unsigned acpi_sleep_state(const struct acpi_sleep *sleep, unsigned block, unsigned type);

// The machine comes back from it to where L1 was, L0 being skipped or unprepared.
bool acpi_sleep_is_hidden(unsigned state);

// Makes the sum of all bytes 0 again, by the byte at 9.
void acpi_sleep_correct_checksum(uint8_t *table, uint32_t length);

#endif
