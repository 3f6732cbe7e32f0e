// SPDX-License-Identifier: MIT
// L0's log: lines on a serial port that L1 does not have, and the last of them in a ring in memory.
#ifndef PLASTRON_LOG_H
#define PLASTRON_LOG_H

#include <stdint.h>

#define LOG_PORT_COUNT 8

void log_init(void);

// 0 if the log goes to memory only.
uint16_t log_port(void);

// From the option log=NAME: com1, com2 (the default) or none. Returns 0 if there is no such port.
int log_select(const char *name);

// One line; "plastron: " and the newline are added. Lines of several processors do not mix.
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The last character has left the port.
void log_flush(void);

// From now on log_line does not wait for a processor that may never release the log.
void log_break_lock(void);

#endif
