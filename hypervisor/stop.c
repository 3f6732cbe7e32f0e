// SPDX-License-Identifier: MIT
#include "stop.h"

#include "log.h"
#include "panic.h"
#include "print.h"
#include "quirks.h"
#include "vcpu.h"

#include <silicon/x86.h>

static _Noreturn void end_machine(void)
{
    panic_give_up_vmcss();
    log_flush();
    if (quirks.shutdown_port)
        for (const char *text = "Shutdown"; *text != '\0'; text++)
            x86_out8(QUIRKS_SHUTDOWN_PORT, (uint8_t)*text);
    panic_halt();
}

static void print_statistics(void)
{
    uint64_t refused = 0;
    log_line("stat: tsc=%lu", x86_rdtsc());
    for (uint32_t i = 0; i < cpu_count; i++)
        if (cpu_list[i]->vcpu != NULL)
            refused += cpu_list[i]->vcpu->nvmx.refused_entry_count;
    log_line("stat: refused_entries=%lu", refused);
    for (unsigned level = 0; level < 2; level++) {
        for (unsigned reason = 0; reason < EXIT_REASON_COUNT; reason++) {
            uint64_t count = 0;
            for (uint32_t i = 0; i < cpu_count; i++)
                if (cpu_list[i]->vcpu != NULL)
                    count += cpu_list[i]->vcpu->nvmx.exit_count[level][reason];
            if (count != 0)
                log_line("exit: level=%u reason=%u name=%s count=%lu", level + 1, reason,
                         nvmx_exit_name(reason), count);
        }
    }
}

void stop_report(const char *reason)
{
    static bool reported;
    if (__atomic_exchange_n(&reported, true, __ATOMIC_SEQ_CST))
        return;
    print_statistics();
    log_line("stop: %s", reason);
    log_flush();
}

void stop_machine(const char *reason)
{
    panic_stop_others();
    stop_report(reason);
    end_machine();
}

void stop_refuse(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    print_format_list(text, sizeof(text), format, arguments);
    va_end(arguments);
    log_line("refuse: %s", text);
    log_line("stop: refused to start");
    end_machine();
}
