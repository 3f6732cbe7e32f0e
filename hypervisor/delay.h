// SPDX-License-Identifier: MIT
#ifndef PLASTRON_DELAY_H
#define PLASTRON_DELAY_H

#include <stdint.h>

// Waits by channel 2 of the interval timer, before L1 owns it. At most 50000.
void delay_microseconds(uint32_t count);

#endif
