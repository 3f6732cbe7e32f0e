// SPDX-License-Identifier: MIT
// Defects and peculiarities of the machine that L0 works around, one name each. No other file knows which
// machine it is.
#ifndef PLASTRON_QUIRKS_H
#define PLASTRON_QUIRKS_H

#include "acpi.h"

struct quirks {
    bool shutdown_port;             // the text "Shutdown" written to port 0x8900 ends the machine
    bool apic_enable_is_final;      // IA32_APIC_BASE ignores every write once its enable bit was cleared
    bool first_fetch_saves_old_rip; // an EPT violation of the first fetch of an exception handler saves the
                                    // RIP of before the delivery
    bool entry_overlooks_events;    // VM entry does not look for an interrupt that is pending already
    bool notices_interrupts_late; // one that arrives while L2 runs may wait until L2 exits: so would what is
                                  // posted
};

#define QUIRKS_SHUTDOWN_PORT 0x8900

extern struct quirks quirks;

void quirks_detect(const struct acpi_info *acpi);

#endif
