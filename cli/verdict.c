// SPDX-License-Identifier: MIT
#include "verdict.h"

#include <signal.h>
#include <string.h>

static const char *ending_name(const struct session *session)
{
    const struct l0log *log = &session->log;
    if (*log->stop) // L0 knows best what L1 did
        return log->stop;
    switch (session->state.ending) {
    case ENDING_POWER_OFF:
        return "L1 powered off";
    case ENDING_SHUTDOWN_PORT:
        return "L1 ended the machine (shutdown port)";
    case ENDING_RESET:
        return "L1 reset the machine";
    case ENDING_TRIPLE_FAULT:
        return "L1 shut down by a triple fault";
    case ENDING_MET:
        return "all was seen that was expected";
    case ENDING_NONE:
    case ENDING_EMULATOR:
    case ENDING_L0:
    case ENDING_TIMEOUT:
    case ENDING_USER:
        break;
    }
    return "the machine ended";
}

static int verdict_user(const struct session *session, char *sentence, size_t size)
{
    if (session->signal == SIGPIPE)
        snprintf(sentence, size, "nobody reads L1's console any more: the machine was ended");
    else
        snprintf(sentence, size, "the machine was ended by %s",
                 session->signal == SIGINT ? "Ctrl-C" : strsignal(session->signal));
    return STATUS_INTERRUPTED + session->signal;
}

static int verdict_refused(const struct session *session, char *sentence, size_t size)
{
    const struct l0log *log = &session->log;
    if (strncmp(log->refuse, "GRUB", 4) == 0) // our script for GRUB said so
        snprintf(sentence, size, "GRUB could not load the image: %s",
                 *log->grub_error ? log->grub_error : "it does not say why");
    else
        snprintf(sentence, size, "refused: %s", log->refuse);
    return STATUS_REFUSED;
}

static int verdict_timeout(const struct session *session, char *sentence, size_t size)
{
    const struct expectations *expectations = session->expectations;
    if (expectations->count && expectations_are_met(expectations)) {
        snprintf(sentence, size, "the time was up, and all was seen that was expected");
        return STATUS_OK;
    }
    snprintf(sentence, size, "the time was up (%u s)%s%s", session->options->timeout,
             *session->state.hint ? "; " : "", session->state.hint);
    return STATUS_TIMEOUT;
}

// Under Plastron a triple fault of L1's is an exit to L0, which then says so. If the processor itself shuts
// down without a word of L0's, L0 did it.
static bool l0_died_silently(const struct session *session)
{
    return !session->options->bare && session->state.ending == ENDING_TRIPLE_FAULT && !*session->log.stop;
}

int verdict_find(const struct session *session, char *sentence, size_t size)
{
    const struct l0log *log = &session->log;
    const struct expectations *expectations = session->expectations;
    enum ending ending = session->state.ending;
    if (ending == ENDING_USER)
        return verdict_user(session, sentence, size);
    if (*log->panic) {
        snprintf(sentence, size, "Plastron panicked: %s", log->panic);
        return STATUS_PANIC;
    }
    if (*log->refuse)
        return verdict_refused(session, sentence, size);
    if (l0_died_silently(session)) {
        snprintf(sentence, size, "Plastron died of a triple fault: %s", session->state.detail);
        return STATUS_PANIC;
    }
    if (ending == ENDING_EMULATOR) {
        snprintf(sentence, size, "the emulator failed: %s",
                 *session->state.detail ? session->state.detail : "it does not say why");
        return STATUS_EMULATOR;
    }
    if (ending == ENDING_TIMEOUT)
        return verdict_timeout(session, sentence, size);
    bool met = expectations_are_met(expectations);
    snprintf(sentence, size, "%s%s", ending_name(session),
             met ? "" : ", but not everything was seen that was expected");
    if (expectations->count)
        return met ? STATUS_OK : STATUS_UNMET;
    bool shutdown = strstr(ending_name(session), "triple fault") || strstr(ending_name(session), "VMX abort");
    return shutdown ? STATUS_UNMET : STATUS_OK;
}
