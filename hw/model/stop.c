// SPDX-License-Identifier: MIT
// What real hardware punishes silently ends the test, in one sentence that names the rule.
#include "model.h"
#include <stdarg.h>
#include <stdio.h>

_Noreturn void rule_broken(const struct hw_cpu *cpu, const char *format, ...)
{
    static char sentence[1024];
    int length = 0;
    if (cpu != NULL) {
        length = snprintf(sentence, sizeof(sentence), "logical processor %u, ", cpu->index);
        if (cpu->current != NULL)
            length += snprintf(sentence + length, sizeof(sentence) - (size_t)length,
                               "current VMCS %s: ", vmcs_label(cpu->machine, cpu->current->region));
        else
            length += snprintf(sentence + length, sizeof(sentence) - (size_t)length, "no current VMCS: ");
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence + length, sizeof(sentence) - (size_t)length, format, arguments);
    va_end(arguments);
    model_stop(sentence);
}
