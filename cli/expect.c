// SPDX-License-Identifier: MIT
#include "expect.h"

#include "lines.h"
#include "say.h"

bool expectations_add(struct expectations *expectations, const char *text)
{
    if (expectations->count == EXPECTATIONS_MAX) {
        say_error("more than %d times --expect", EXPECTATIONS_MAX);
        return false;
    }
    struct expectation *new = &expectations->all[expectations->count];
    int error = regcomp(&new->regex, text, REG_EXTENDED | REG_NOSUB);
    if (error) {
        char why[256];
        regerror(error, &new->regex, why, sizeof(why));
        say_error("--expect '%s' is not a regular expression: %s", text, why);
        return false;
    }
    new->text = text;
    new->met = false;
    expectations->count++;
    return true;
}

void expectations_free(struct expectations *expectations)
{
    for (size_t i = 0; i < expectations->count; i++)
        regfree(&expectations->all[i].regex);
    expectations->count = 0;
}

// Leaves out ESC [ parameters letter, ESC and one other character, and other control characters.
static void drop_control_sequences(char *out, const char *line)
{
    while (*line) {
        if (line[0] == '\033' && line[1] == '[') {
            line += 2;
            while (*line >= 0x20 && *line < 0x40)
                line++;
            if (*line)
                line++;
        } else if (line[0] == '\033' && line[1]) {
            line += 2;
        } else if ((unsigned char)*line < 0x20 && *line != '\t') {
            line++;
        } else {
            *out++ = *line++;
        }
    }
    *out = '\0';
}

void expectations_look(struct expectations *expectations, const char *line, bool open)
{
    char plain[LINES_MAX];
    if (!expectations->count)
        return;
    drop_control_sequences(plain, line);
    for (size_t i = 0; i < expectations->count; i++) {
        struct expectation *one = &expectations->all[i];
        if (!one->met && regexec(&one->regex, plain, 0, NULL, open ? REG_NOTEOL : 0) == 0)
            one->met = true;
    }
}

bool expectations_are_met(const struct expectations *expectations)
{
    for (size_t i = 0; i < expectations->count; i++) {
        if (!expectations->all[i].met)
            return false;
    }
    return true;
}
