// SPDX-License-Identifier: MIT
// Where the command's companions are: beside the command itself, or in $PLASTRON_HOME.
#ifndef PLASTRON_CLI_INSTALL_H
#define PLASTRON_CLI_INSTALL_H

#include <stdbool.h>
#include <stddef.h>

#define INSTALL_PATH_MAX 4096

// Writes HOME/name; false (with errno) when the path would be too long or the home cannot be found.
bool install_path(char *path, size_t size, const char *name);

// Finds a program in $PATH. False when there is none.
bool install_find_program(char *path, size_t size, const char *program);

// The text of a small file without its trailing white space, or NULL (with errno). The caller frees it.
char *install_read_text(const char *path);

#endif
