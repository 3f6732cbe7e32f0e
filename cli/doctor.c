// SPDX-License-Identifier: MIT
// `plastron doctor`: what this computer has, and which machine `plastron run` would use.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "install.h"
#include "machine.h"
#include "medium.h"
#include "status.h"

enum { WHY_MAX = 1024 };

static void print_row(const char *mark, const char *what, const char *text)
{
    printf("  %-8s %-18s %s\n", mark, what, text);
}

// The flag "vmx" of the first processor, as the kernel shows it.
static bool processor_has_vtx(void)
{
    FILE *info = fopen("/proc/cpuinfo", "re");
    if (!info)
        return false;
    char line[8192];
    bool has = false;
    while (!has && fgets(line, sizeof(line), info))
        has = strncmp(line, "flags", 5) == 0 && (strstr(line, " vmx ") || strstr(line, " vmx\n"));
    fclose(info);
    return has;
}

static bool check_file(const char *what, const char *name, const char *maker)
{
    char path[INSTALL_PATH_MAX] = "", text[INSTALL_PATH_MAX + 64];
    bool here = install_path(path, sizeof(path), name) && access(path, R_OK) == 0;
    snprintf(text, sizeof(text), "%s%s%s", path, here ? "" : " is missing: ", here ? "" : maker);
    print_row(here ? "ok" : "missing", what, text);
    return here;
}

int doctor_main(int argc, char **argv)
{
    if (argc > 1) {
        bool help = strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0;
        fputs("Usage: plastron doctor\n\n"
              "Says what this computer has of what `plastron run` needs, and which machine it would use.\n"
              "Exit status 0 if some machine with VT-x can be used, 6 if not.\n",
              help ? stdout : stderr);
        return help ? STATUS_OK : STATUS_USAGE;
    }
    char why[WHY_MAX];
    const struct machine_kind *kind, *chosen = NULL;

    printf("This computer\n");
    bool vtx = processor_has_vtx();
    print_row(vtx ? "ok" : "none", "VT-x",
              vtx ? "the processor has it" : "the processor has none, or it is hidden: Bochs emulates one");
    printf("Machines\n");
    for (size_t i = 0; (kind = machine_kind_at(i)); i++) {
        bool usable = kind->usable(why, sizeof(why));
        print_row(usable ? "ok" : "no", kind->name, why);
        if (usable && kind->has_vtx && !chosen)
            chosen = kind;
    }
    printf("Tools and files\n");
    bool tools = medium_tools_are_here(why, sizeof(why));
    print_row(tools ? "ok" : "missing", "boot medium", tools ? "GRUB is here" : why);
    bool image = check_file("Plastron's image", "plastron.elf", "`make image` makes it");
    check_file("demonstration", "demo/vmlinuz", "`make demo` makes it");

    bool usable = chosen && tools;
    if (usable)
        printf("`plastron run` would use %s%s.\n", chosen->name,
               image ? "" : ", with --bare only: Plastron's image is not built yet");
    else
        printf("No machine with VT-x can be used here%s.\n",
               chosen ? ": the tools for boot media are missing" : "");
    return usable ? STATUS_OK : STATUS_HOST;
}
