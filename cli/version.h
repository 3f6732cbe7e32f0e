// SPDX-License-Identifier: MIT
#ifndef PLASTRON_CLI_VERSION_H
#define PLASTRON_CLI_VERSION_H

#define PLASTRON_VERSION "0.1.0"

#endif
