// SPDX-License-Identifier: MIT
// `plastron run`: options, files, machine, boot medium, session, verdict, one after the other.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"
#include "install.h"
#include "l1_image.h"
#include "machine.h"
#include "medium.h"
#include "run_options.h"
#include "say.h"
#include "session.h"
#include "status.h"
#include "summary.h"
#include "verdict.h"

enum { WHY_MAX = 1024 };

// The files of the boot medium, in GRUB's order.
struct files {
    struct medium_request request;
    char l0_options[4096];
    char l0_path[INSTALL_PATH_MAX];
};

static bool files_add(struct files *files, const char *path, const char *text)
{
    char why[WHY_MAX];
    int fd = l1_image_open(path, why, sizeof(why));
    if (fd < 0) {
        say_error("%s", why);
        return false;
    }
    if (strpbrk(text, "\n\r")) {
        say_error("the text of '%s' cannot hold a line break", path);
        close(fd);
        return false;
    }
    files->request.files[files->request.file_count++] = (struct medium_file){.fd = fd, .text = text};
    return true;
}

static void files_close(struct files *files)
{
    for (size_t i = 0; i < files->request.file_count; i++)
        close(files->request.files[i].fd);
}

static int files_add_l0(struct files *files, const struct run_options *options)
{
    size_t length = 0;
    for (size_t i = 0; i < options->option_count; i++) {
        size_t room = sizeof(files->l0_options) - length;
        int written = snprintf(files->l0_options + length, room, "%s%s", i ? " " : "", options->options[i]);
        if (written < 0 || (size_t)written >= room) {
            say_error("the options for Plastron are too long together");
            return STATUS_USAGE;
        }
        length += (size_t)written;
    }
    if (!install_path(files->l0_path, sizeof(files->l0_path), "plastron.elf") ||
        access(files->l0_path, R_OK)) {
        say_error("Plastron's image is missing: no %s (`make image` makes it)",
                  *files->l0_path ? files->l0_path : "plastron.elf beside the command");
        return STATUS_HOST;
    }
    files->request.protocol = MEDIUM_MULTIBOOT2;
    return files_add(files, files->l0_path, files->l0_options) ? STATUS_OK : STATUS_HOST;
}

static int choose_bare_protocol(struct files *files, const struct run_options *options)
{
    switch (l1_image_recognise(files->request.files[0].fd)) {
    case L1_IMAGE_LINUX:
        if (options->module_count) {
            say_error("a Linux image takes --initrd, not --module");
            return STATUS_USAGE;
        }
        files->request.protocol = MEDIUM_LINUX;
        return STATUS_OK;
    case L1_IMAGE_MULTIBOOT1:
        files->request.protocol = MEDIUM_MULTIBOOT1;
        return STATUS_OK;
    case L1_IMAGE_MULTIBOOT2:
        files->request.protocol = MEDIUM_MULTIBOOT2;
        return STATUS_OK;
    case L1_IMAGE_UNKNOWN:
        break;
    }
    say_error("'%s' is neither a Linux bzImage nor a Multiboot image", options->image);
    return STATUS_REFUSED;
}

// Opens every file before anything is started. Returns STATUS_OK, or what to exit with, having said why.
static int files_open(struct files *files, const struct run_options *options)
{
    if (!files_add(files, options->image, options->append))
        return STATUS_USAGE;
    if (options->initrd && !files_add(files, options->initrd, ""))
        return STATUS_USAGE;
    for (size_t i = 0; i < options->module_count; i++) {
        if (!files_add(files, options->modules[i].path, options->modules[i].text))
            return STATUS_USAGE;
    }
    if (options->bare)
        return choose_bare_protocol(files, options);
    int status = files_add_l0(files, options); // last, so that a mistake of the user's is told first
    if (status == STATUS_OK) {
        struct medium_request *request = &files->request;
        struct medium_file l0 = request->files[--request->file_count];
        memmove(&request->files[1], &request->files[0], request->file_count * sizeof(request->files[0]));
        request->files[0] = l0;
        request->file_count++;
    }
    return status;
}

// Returns NULL with `*status` set, having said why.
static const struct machine_kind *choose_machine(const struct run_options *options, int *status)
{
    char why[WHY_MAX], first_why[WHY_MAX] = "";
    const struct machine_kind *kind;
    if (options->machine) {
        kind = machine_kind_find(options->machine);
        *status = kind ? STATUS_HOST : STATUS_USAGE;
        if (!kind)
            say_error("there is no machine '%s': bochs, qemu-kvm or qemu-tcg", options->machine);
        else if (kind->usable(why, sizeof(why)))
            return kind;
        else
            say_error("machine %s cannot be used here: %s", kind->name, why);
        return NULL;
    }
    for (size_t i = 0; (kind = machine_kind_at(i)); i++) {
        if (kind->has_vtx && kind->usable(why, sizeof(why)))
            return kind;
        if (i == 0)
            memcpy(first_why, why, sizeof(why));
    }
    say_error("no machine with VT-x can be used here: %s; `plastron doctor` says more", first_why);
    *status = STATUS_HOST;
    return NULL;
}

static bool machine_can_hold(const struct machine_kind *kind, const struct run_options *options)
{
    if (options->processors > kind->processors_max) {
        say_error("machine %s has at most %u processors", kind->name, kind->processors_max);
        return false;
    }
    if (options->memory_mib > kind->memory_mib_max) {
        say_error("machine %s has at most %u MiB of memory", kind->name, kind->memory_mib_max);
        return false;
    }
    if (options->cpu &&
        options->cpu[strspn(options->cpu, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-.,+=")]) {
        say_error("'%s' is not the name of a processor model", options->cpu);
        return false;
    }
    return true;
}

static unsigned long long mebibytes(int fd)
{
    struct stat status;
    return fstat(fd, &status) ? 0 : ((unsigned long long)status.st_size + (1 << 20) - 1) >> 20;
}

// For our tests (tests/boot/common.sh): defects of Plastron's are noted in this file, whatever a test itself
// looks at.
static void note_defects(const struct session *session, const char *sentence, int status)
{
    const char *path = getenv("PLASTRON_DEFECTS");
    const struct l0log *log = &session->log;
    FILE *out = path && (status == STATUS_PANIC || log->detector_count) ? fopen(path, "ae") : NULL;
    if (!out)
        return;
    if (status == STATUS_PANIC)
        fprintf(out, "%s\n", sentence);
    if (log->detector_count)
        fprintf(out, "%u lines of the DETECTOR, the first: %s\n", log->detector_count, log->detector);
    fclose(out);
}

static int run_session(struct run_options *options, const struct machine_kind *kind, int cd, FILE *log)
{
    char why[WHY_MAX];
    static struct session session; // static: it is large
    session = (struct session){.options = options,
                               .kind = kind,
                               .cpu = options->cpu ? options->cpu : kind->default_cpu,
                               .cd = cd,
                               .log_copy = log};
    say_stage("starting %s (%s): %u processor%s, %u MiB", kind->name, session.cpu, options->processors,
              options->processors == 1 ? "" : "s", options->memory_mib);
    if (!session_run(&session, why, sizeof(why))) {
        say_error("%s", why);
        return STATUS_HOST;
    }
    char sentence[WHY_MAX];
    int status = verdict_find(&session, sentence, sizeof(sentence));
    summary_say(&session, sentence, status);
    note_defects(&session, sentence, status);
    return status;
}

static int run_with_files(struct run_options *options, const struct files *files,
                          const struct machine_kind *kind)
{
    char why[WHY_MAX];
    int cd = medium_make(&files->request, why, sizeof(why));
    if (cd < 0) {
        say_error("%s", why);
        return STATUS_HOST;
    }
    say_stage("made the boot medium (%llu MiB)", mebibytes(cd));
    FILE *log = NULL;
    if (options->log && !(log = fopen(options->log, "we"))) {
        say_error("cannot write '%s': %s", options->log, strerror(errno));
        close(cd);
        return STATUS_USAGE;
    }
    int status = run_session(options, kind, cd, log);
    if (log && fclose(log))
        say_error("'%s' is incomplete: %s", options->log, strerror(errno));
    close(cd);
    return status;
}

static int run_with_options(struct run_options *options)
{
    static struct files files;
    int status = STATUS_USAGE;
    files = (struct files){.l0_path = ""};
    status = files_open(&files, options);
    if (status == STATUS_OK) {
        const struct machine_kind *kind = choose_machine(options, &status);
        if (kind)
            status = machine_can_hold(kind, options) ? run_with_files(options, &files, kind) : STATUS_USAGE;
    }
    files_close(&files);
    return status;
}

int run_main(int argc, char **argv)
{
    struct run_options options;
    signal(SIGPIPE, SIG_IGN); // a reader that has gone is noticed where we write
    say_start_clock();
    int status = STATUS_USAGE;
    switch (run_options_parse(&options, argc, argv)) {
    case RUN_PARSE_HELP:
        run_options_print_help();
        status = STATUS_OK;
        break;
    case RUN_PARSE_WRONG:
        break;
    case RUN_PARSE_GO:
        say_set_level(options.quiet ? SAY_ERRORS : options.verbose ? SAY_EVERYTHING : SAY_STAGES);
        status = run_with_options(&options);
        break;
    }
    run_options_free(&options);
    return status;
}
