// SPDX-License-Identifier: MIT
// Physical memory: one flat block of RAM from address 0. What is outside is a bus without devices: reads give
// ones, writes are lost.
#include "model.h"
#include <string.h>

bool memory_is_ram(const struct machine *machine, uint64_t address, uint64_t size)
{
    return size <= machine->config.memory_size && address <= machine->config.memory_size - size;
}

uint64_t memory_read(const struct machine *machine, uint64_t address, unsigned size)
{
    uint64_t value = ~0ull;
    if (memory_is_ram(machine, address, size)) {
        value = 0;
        memcpy(&value, machine->memory + address, size);
    } else if (size < 8) {
        value >>= 64 - 8 * size;
    }
    return value;
}

void memory_write(struct machine *machine, uint64_t address, uint64_t value, unsigned size)
{
    if (memory_is_ram(machine, address, size))
        memcpy(machine->memory + address, &value, size);
}

void *machine_memory(struct machine *machine, uint64_t address, uint64_t size)
{
    if (!memory_is_ram(machine, address, size))
        rule_broken(NULL, "the test asks for the memory at %#llx, which is not RAM",
                    (unsigned long long)address);
    return machine->memory + address;
}

void machine_reserve_for_l0(struct machine *machine, uint64_t from, uint64_t size)
{
    for (uint64_t page = from >> PAGE_SHIFT; page < (from + size) >> PAGE_SHIFT; page++)
        machine->l0_page[page] = 1;
}
