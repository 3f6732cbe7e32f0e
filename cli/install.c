// SPDX-License-Identifier: MIT
#include "install.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool install_home(char *home, size_t size)
{
    const char *chosen = getenv("PLASTRON_HOME");
    if (chosen && *chosen)
        return (size_t)snprintf(home, size, "%s", chosen) < size;
    ssize_t length = readlink("/proc/self/exe", home, size - 1);
    if (length < 0)
        return false;
    home[length] = '\0';
    char *slash = strrchr(home, '/');
    if (slash)
        *slash = '\0';
    return true;
}

bool install_path(char *path, size_t size, const char *name)
{
    char home[INSTALL_PATH_MAX];
    if (!install_home(home, sizeof(home)))
        return false;
    if ((size_t)snprintf(path, size, "%s/%s", home, name) < size)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

bool install_find_program(char *path, size_t size, const char *program)
{
    const char *folders = getenv("PATH");
    if (!folders)
        folders = "/usr/local/bin:/usr/bin:/bin";
    // Tools for making boot media live in sbin on some distributions, and sbin is not on everybody's $PATH.
    char all[INSTALL_PATH_MAX];
    snprintf(all, sizeof(all), "%s:/usr/local/sbin:/usr/sbin:/sbin", folders);
    char *rest = all;
    for (char *folder; (folder = strsep(&rest, ":"));) {
        if (!*folder)
            continue;
        if ((size_t)snprintf(path, size, "%s/%s", folder, program) < size && access(path, X_OK) == 0)
            return true;
    }
    return false;
}

char *install_read_text(const char *path)
{
    enum { LONGEST = 65536 };
    FILE *file = fopen(path, "re");
    if (!file)
        return NULL;
    char *text = malloc(LONGEST);
    if (text) {
        size_t length = fread(text, 1, LONGEST - 1, file);
        while (length && strchr(" \t\r\n", text[length - 1]))
            length--;
        text[length] = '\0';
    }
    fclose(file);
    return text;
}
