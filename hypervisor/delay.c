// SPDX-License-Identifier: MIT
#include "delay.h"

#include <silicon/x86.h>

#define PIT_FREQUENCY    1193182u
#define PIT_CHANNEL_2    0x42
#define PIT_COMMAND      0x43
#define PIT_ONE_SHOT_2   0xb0 // channel 2, low then high byte, mode 0
#define CONTROL_PORT     0x61
#define CONTROL_GATE_2   0x01
#define CONTROL_SPEAKER  0x02
#define CONTROL_OUTPUT_2 0x20

void delay_microseconds(uint32_t count)
{
    uint32_t ticks = (uint32_t)((uint64_t)count * PIT_FREQUENCY / 1000000) + 1;
    uint8_t control = x86_in8(CONTROL_PORT);
    x86_out8(CONTROL_PORT, (uint8_t)((control & ~CONTROL_SPEAKER) | CONTROL_GATE_2));
    x86_out8(PIT_COMMAND, PIT_ONE_SHOT_2);
    x86_out8(PIT_CHANNEL_2, (uint8_t)ticks);
    x86_out8(PIT_CHANNEL_2, (uint8_t)(ticks >> 8));
    // Bounded, for a machine without the timer: port reads take about a microsecond there.
    for (uint32_t tries = 0; tries < 1000000; tries++)
        if ((x86_in8(CONTROL_PORT) & CONTROL_OUTPUT_2) != 0)
            break;
    x86_out8(CONTROL_PORT, control);
}
