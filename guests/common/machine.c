// SPDX-License-Identifier: MIT
#include "machine.h"
#include "x86.h"

#define MULTIBOOT_LOADED       0x2badb002u
#define MULTIBOOT_COMMAND_LINE (1u << 2)
#define MULTIBOOT_MEMORY_MAP   (1u << 6)
#define MEMORY_AVAILABLE       1u
#define LOW_MEMORY_FIRST       0x1000u // page 0 belongs to the BIOS
#define LOW_MEMORY_END         0xa0000u
#define PIC_MASTER_MASK        0x21
#define PIC_SLAVE_MASK         0xa1
#define PIT_CHANNEL_2          0x42
#define PIT_COMMAND            0x43
#define PIT_GATE               0x61
#define PIT_10_MS              11932u

struct memory_map_entry {
    uint32_t size; // of what follows
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

static char command_line[512];
static uint64_t low_page;

static void machine_find_low_page(const struct multiboot_information *information)
{
    uint32_t at = information->map_address, end = at + information->map_length;
    while (at < end) {
        const struct memory_map_entry *entry = (const struct memory_map_entry *)(uintptr_t)at;
        uint64_t limit = entry->base + entry->length;
        limit = limit < LOW_MEMORY_END ? limit : LOW_MEMORY_END;
        uint64_t page = (limit & ~(PAGE_SIZE - 1)) - PAGE_SIZE;
        if (entry->type == MEMORY_AVAILABLE && limit > LOW_MEMORY_FIRST + PAGE_SIZE && page >= entry->base &&
            page > low_page)
            low_page = page;
        at += entry->size + 4;
    }
}

bool machine_init(const struct multiboot_information *information, uint32_t magic)
{
    x86_out8(PIC_MASTER_MASK, 0xff); // the BIOS's clock would interrupt whoever sets IF
    x86_out8(PIC_SLAVE_MASK, 0xff);
    if (magic != MULTIBOOT_LOADED)
        return false;
    if (information->flags & MULTIBOOT_COMMAND_LINE) {
        const char *text = (const char *)(uintptr_t)information->command_line;
        for (uint32_t i = 0; i < sizeof(command_line) - 1 && text[i]; i++)
            command_line[i] = text[i];
    }
    if (information->flags & MULTIBOOT_MEMORY_MAP)
        machine_find_low_page(information);
    return true;
}

bool machine_option(const char *name, char *value, uint32_t size)
{
    const char *at = command_line;
    while (*at) {
        const char *want = name;
        while (*want && *at == *want)
            at++, want++;
        if (!*want && *at == '=') {
            uint32_t length = 0;
            for (at++; *at && *at != ' ' && length + 1 < size; at++)
                value[length++] = *at;
            value[length] = 0;
            return true;
        }
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return false;
}

uint64_t machine_low_page(void)
{
    return low_page;
}

void machine_wait_10_ms(void)
{
    x86_out8(PIT_GATE, (uint8_t)((x86_in8(PIT_GATE) & 0xfc) | 1)); // gate on, speaker off
    x86_out8(PIT_COMMAND, 0xb0); // channel 2, both bytes, interrupt on terminal count
    x86_out8(PIT_CHANNEL_2, PIT_10_MS & 0xff);
    x86_out8(PIT_CHANNEL_2, PIT_10_MS >> 8);
    while (!(x86_in8(PIT_GATE) & 0x20))
        x86_pause();
}

void machine_stop(void)
{
    for (const char *at = "Shutdown"; *at; at++)
        x86_out8(0x8900, (uint8_t)*at);
    for (;;)
        __asm__ volatile("cli; hlt");
}
