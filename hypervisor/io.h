// SPDX-License-Identifier: MIT
// The I/O ports that L0 intercepts: its log's serial port, which L1 does not have, and those that end the
// machine, which L0 watches.
#ifndef PLASTRON_IO_H
#define PLASTRON_IO_H

#include "acpi.h"
#include "vcpu.h"

// Before io_init: the ports that switch the machine off.
void io_set_acpi(const struct acpi_info *acpi);

void io_init(void);
l0pa_t io_bitmap_a(void);
l0pa_t io_bitmap_b(void);

void io_handle_exit(struct vcpu *vcpu);

#endif
