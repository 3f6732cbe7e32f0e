// SPDX-License-Identifier: MIT
// What the boot loader said about the machine, and how to end it.
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <nvmx/types.h>

struct multiboot_information {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line, module_count, modules, symbols[4];
    uint32_t map_length, map_address;
};

// Reads what it keeps before anything else overwrites it. False: not loaded by Multiboot 1.
bool machine_init(const struct multiboot_information *information, uint32_t magic);

// The value of NAME=VALUE in the command line, up to the next space, cut to size - 1 characters. False: not
// there.
bool machine_option(const char *name, char *value, uint32_t size);

// A page of RAM below 640 KiB that is ours to overwrite; 0: none.
uint64_t machine_low_page(void);

// Some 10 ms by the 8254's channel 2.
void machine_wait_10_ms(void);

// Powers the emulator off ("Shutdown" to its port 0x8900); elsewhere halts for good.
void machine_stop(void) __attribute__((noreturn));

#endif
