// SPDX-License-Identifier: MIT
#ifndef PLASTRON_PORT_MEMORY_H
#define PLASTRON_PORT_MEMORY_H

#include "memory_map.h"

// Which memory port_l1_read and port_l1_write reach; `map` must stay.
void port_memory_set(const struct memory_map *map);

#endif
