// SPDX-License-Identifier: MIT
// The one sentence that says why L1's image cannot be loaded.
#include "load_plan.h"

#include <stdarg.h>

struct sentence {
    char *text;
    size_t size, used;
};

static void sentence_add(struct sentence *sentence, char c)
{
    if (sentence->used + 1 < sentence->size)
        sentence->text[sentence->used++] = c;
}

static void sentence_add_text(struct sentence *sentence, const char *text)
{
    while (*text)
        sentence_add(sentence, *text++);
}

static void sentence_add_number(struct sentence *sentence, uint64_t number, unsigned base)
{
    char digits[20]; // the longest 64-bit decimal
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    while (count)
        sentence_add(sentence, digits[--count]);
}

bool load_refuse(const struct l1_load_request *request, const char *format, ...)
{
    struct sentence sentence = {request->refusal, request->refusal_size, 0};
    va_list arguments;
    va_start(arguments, format);
    for (const char *at = format; *at; at++) {
        if (*at != '%') {
            sentence_add(&sentence, *at);
        } else if (at[1] == 's') {
            sentence_add_text(&sentence, va_arg(arguments, const char *));
            at += 1;
        } else if (at[1] == 'l' && at[2] == 'u') {
            sentence_add_number(&sentence, va_arg(arguments, uint64_t), 10);
            at += 2;
        } else if (at[1] == '#' && at[2] == 'l' && at[3] == 'x') {
            sentence_add_text(&sentence, "0x");
            sentence_add_number(&sentence, va_arg(arguments, uint64_t), 16);
            at += 3;
        }
    }
    va_end(arguments);
    if (sentence.size)
        sentence.text[sentence.used] = 0;
    return false;
}
