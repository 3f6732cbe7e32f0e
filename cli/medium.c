// SPDX-License-Identifier: MIT
#include "medium.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "install.h"
#include "iso.h"
#include "process.h"

// GRUB's core image holds just enough to read the CD. Everything else is read from the CD as plain files: the
// core is compressed with LZMA, and unpacking costs an emulated processor more than reading does.
#define CORE_SCRIPT "insmod configfile\nsource /boot.cfg\n"

static const char *const core_modules[] = {"biosdisk", "iso9660"};
static const char *const script_modules[] = {"configfile", "serial", "terminfo", "echo", "halt"};

static const struct {
    const char *module, *load_first, *load_next;
    bool first_takes_all; // Linux: one command for all the rest
} protocols[] = {
    [MEDIUM_MULTIBOOT1] = {"multiboot", "multiboot", "module", false},
    [MEDIUM_MULTIBOOT2] = {"multiboot2", "multiboot2", "module2", false},
    [MEDIUM_LINUX] = {"linux", "linux", "initrd", true},
};

struct tools {
    char mkimage[INSTALL_PATH_MAX];
    char grub[INSTALL_PATH_MAX]; // the folder of GRUB's modules
};

static bool tools_find(struct tools *tools, char *why, size_t size)
{
    static const char *const folders[] = {"/usr/lib/grub/i386-pc", "/usr/share/grub/i386-pc",
                                          "/usr/lib/grub2/i386-pc"};
    if (!install_find_program(tools->mkimage, sizeof(tools->mkimage), "grub-mkimage") &&
        !install_find_program(tools->mkimage, sizeof(tools->mkimage), "grub2-mkimage")) {
        snprintf(why, size, "grub-mkimage is missing (Debian: package grub-common)");
        return false;
    }
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        char list[INSTALL_PATH_MAX];
        snprintf(tools->grub, sizeof(tools->grub), "%s", folders[i]);
        snprintf(list, sizeof(list), "%s/moddep.lst", folders[i]);
        if (access(list, R_OK) == 0)
            return true;
    }
    snprintf(why, size, "GRUB's modules for BIOS machines are missing (Debian: package grub-pc-bin)");
    return false;
}

bool medium_tools_are_here(char *why, size_t size)
{
    struct tools tools;
    return tools_find(&tools, why, size);
}

// The modules to put on the CD: those asked for and all that they need, by GRUB's own list: "name: need
// need".
enum { MODULE_SET_MAX = 64 };

struct module_set {
    char names[MODULE_SET_MAX][32];
    size_t count;
};

static void module_set_add(struct module_set *set, const char *list, const char *name)
{
    for (size_t i = 0; i < set->count; i++) {
        if (strcmp(set->names[i], name) == 0)
            return;
    }
    if (set->count == MODULE_SET_MAX || strlen(name) >= sizeof(set->names[0]))
        return; // GRUB will say which module it misses
    strcpy(set->names[set->count++], name);
    size_t length = strlen(name);
    for (const char *line = list; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) || line[length] != ':')
            continue;
        for (const char *p = line + length + 1;;) {
            char need[32];
            int used;
            p += strspn(p, " ");
            if (*p == '\n' || sscanf(p, "%31s%n", need, &used) != 1)
                return;
            module_set_add(set, list, need);
            p += used;
        }
    }
}

static bool module_set_make(struct module_set *set, const struct tools *tools, enum medium_protocol protocol)
{
    char path[INSTALL_PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/moddep.lst", tools->grub);
    char *list = install_read_text(path);
    if (!list)
        return false;
    set->count = 0;
    for (size_t i = 0; i < sizeof(script_modules) / sizeof(script_modules[0]); i++)
        module_set_add(set, list, script_modules[i]);
    module_set_add(set, list, protocols[protocol].module);
    free(list);
    return true;
}

static void write_word(FILE *script, const char *word, size_t length)
{
    fputs(" '", script);
    for (size_t i = 0; i < length; i++) {
        if (word[i] == '\'')
            fputs("'\\''", script);
        else
            fputc(word[i], script);
    }
    fputc('\'', script);
}

// Splits a text into words by GRUB's own rules for quotes, and writes them so that nothing else in them is
// special to GRUB. (GRUB puts a word that holds a space between double quotes again when it makes the command
// line.)
static void write_words(FILE *script, const char *text)
{
    char *word = malloc(strlen(text) + 1);
    if (!word)
        abort();
    while (*text) {
        size_t length = 0;
        char quote = 0;
        text += strspn(text, " \t");
        if (!*text)
            break;
        for (; *text && (quote || (*text != ' ' && *text != '\t')); text++) {
            if (quote ? *text == quote : (*text == '"' || *text == '\''))
                quote = quote ? 0 : *text;
            else if (*text == '\\' && quote != '\'' && text[1] && (!quote || strchr("\\\"$", text[1])))
                word[length++] = *++text;
            else
                word[length++] = *text;
        }
        write_word(script, word, length);
    }
    free(word);
}

static int memory_file(const char *name)
{
    return memfd_create(name, MFD_CLOEXEC);
}

static bool write_script(int fd, const struct medium_request *request)
{
    FILE *script = fdopen(dup(fd), "w");
    if (!script)
        return false;
    fputs("insmod serial\n"
          "insmod terminfo\n"
          "serial --unit=1 --speed=115200\n"
          "terminfo serial dumb\n"
          "terminal_output serial\n"
          "insmod echo\n"
          "insmod halt\n",
          script);
    fputs("echo 'plastron: stage: GRUB is loading the files'\n", script);
    unsigned depth = 2;
    fprintf(script, "if insmod %s; then\n", protocols[request->protocol].module);
    fprintf(script, "if %s /file0", protocols[request->protocol].load_first);
    write_words(script, request->files[0].text);
    fputs("; then\n", script);
    for (size_t i = 1; i < request->file_count; i++) {
        bool together = protocols[request->protocol].first_takes_all && i > 1;
        if (!together) {
            fprintf(script, "if %s", protocols[request->protocol].load_next);
            depth++;
        }
        fprintf(script, " /file%zu", i);
        write_words(script, request->files[i].text);
        if (i + 1 == request->file_count || !protocols[request->protocol].first_takes_all)
            fputs("; then\n", script);
    }
    fputs("boot\n", script);
    while (depth--)
        fputs("fi\n", script);
    fputs("echo '" MEDIUM_GRUB_GAVE_UP "'\nhalt\n", script);
    bool fine = !ferror(script);
    return fclose(script) == 0 && fine;
}

static bool make_core(const struct tools *tools, int core, int script, char *why, size_t size)
{
    if (write(script, CORE_SCRIPT, strlen(CORE_SCRIPT)) != (ssize_t)strlen(CORE_SCRIPT)) {
        snprintf(why, size, "cannot write GRUB's script: %s", strerror(errno));
        return false;
    }
    char script_path[32];
    snprintf(script_path, sizeof(script_path), "/proc/self/fd/%d", script);
    char *argv[] = {(char *)tools->mkimage,
                    "-O",
                    "i386-pc-eltorito",
                    "-d",
                    (char *)tools->grub,
                    "-p",
                    "/",
                    "-c",
                    script_path,
                    (char *)core_modules[0],
                    (char *)core_modules[1],
                    NULL};
    struct process_fds fds = {0};
    process_fds_add(&fds, script);
    char complaint[512];
    if (process_run_tool(argv, &fds, core, complaint, sizeof(complaint)))
        return true;
    snprintf(why, size, "grub-mkimage failed: %s", complaint);
    return false;
}

static bool add_modules(struct iso *iso, const struct tools *tools, const struct module_set *set, int *fds,
                        char *why, size_t size)
{
    for (size_t i = 0; i < set->count; i++) {
        char name[64], path[INSTALL_PATH_MAX + 64];
        snprintf(name, sizeof(name), "%s.mod", set->names[i]);
        snprintf(path, sizeof(path), "%s/%s", tools->grub, name);
        fds[i] = open(path, O_RDONLY | O_CLOEXEC);
        if (fds[i] < 0 || !iso_add(iso, name, true, fds[i])) {
            snprintf(why, size, "cannot take GRUB's module %s: %s", path, strerror(errno));
            return false;
        }
    }
    return true;
}

static bool add_files(struct iso *iso, const struct medium_request *request, int core, int script, char *why,
                      size_t size)
{
    bool fine = iso_add(iso, "core.img", false, core) && iso_add(iso, "boot.cfg", false, script);
    for (size_t i = 0; fine && i < request->file_count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file%zu", i);
        fine = iso_add(iso, name, false, request->files[i].fd);
    }
    if (!fine)
        snprintf(why, size, "a file does not fit on the boot medium: %s", strerror(errno));
    return fine;
}

static bool make_cd(const struct tools *tools, const struct medium_request *request, int core, int script,
                    int cd, char *why, size_t size)
{
    static struct iso iso; // static: it is large
    struct module_set set;
    int module_fds[MODULE_SET_MAX];
    if (!module_set_make(&set, tools, request->protocol)) {
        snprintf(why, size, "cannot read GRUB's list of modules in %s", tools->grub);
        return false;
    }
    for (size_t i = 0; i < MODULE_SET_MAX; i++)
        module_fds[i] = -1;
    iso = (struct iso){.folder = "i386-pc"};
    bool fine = add_files(&iso, request, core, script, why, size) &&
                add_modules(&iso, tools, &set, module_fds, why, size);
    if (fine && !iso_write(&iso, cd)) {
        snprintf(why, size, "cannot write the boot medium: %s", strerror(errno));
        fine = false;
    }
    for (size_t i = 0; i < MODULE_SET_MAX; i++) {
        if (module_fds[i] >= 0)
            close(module_fds[i]);
    }
    return fine;
}

int medium_make(const struct medium_request *request, char *why, size_t size)
{
    struct tools tools;
    if (!tools_find(&tools, why, size))
        return -1;
    int core_script = memory_file("core.cfg");
    int core = memory_file("core.img");
    int script = memory_file("boot.cfg");
    int cd = memory_file("boot.iso");
    bool fine = core_script >= 0 && core >= 0 && script >= 0 && cd >= 0 && write_script(script, request);
    if (!fine)
        snprintf(why, size, "cannot make the boot medium in memory: %s", strerror(errno));
    fine = fine && make_core(&tools, core, core_script, why, size) &&
           make_cd(&tools, request, core, script, cd, why, size);
    int temporary[] = {core_script, core, script};
    for (size_t i = 0; i < sizeof(temporary) / sizeof(temporary[0]); i++) {
        if (temporary[i] >= 0)
            close(temporary[i]);
    }
    if (fine)
        return cd;
    if (cd >= 0)
        close(cd);
    return -1;
}
