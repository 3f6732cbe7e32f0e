// SPDX-License-Identifier: MIT
#include "names.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "field.h"

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool same_letter(char a, char b)
{
    return toupper((unsigned char)a) == toupper((unsigned char)b);
}

size_t names_distance(const char *from, const char *to)
{
    enum { LONGEST = 63, FAR = 99 };
    size_t length = strlen(to);
    size_t row[LONGEST + 1];
    if (length > LONGEST || strlen(from) > LONGEST)
        return FAR;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; from[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 1; j <= length; j++) {
            size_t above = row[j];
            row[j] = least(least(above, row[j - 1]) + 1, diagonal + !same_letter(from[i], to[j - 1]));
            diagonal = above;
        }
    }
    return row[length];
}

// Nearer than a third of its letters, or it is a guess.
static const char *nearest(const char *text, const char *(*name)(unsigned), unsigned count)
{
    const char *found = NULL;
    size_t distance = strlen(text) / 3 + 1;
    for (unsigned i = 0; i < count; i++) {
        size_t d = names_distance(text, name(i));
        if (d < distance) {
            distance = d;
            found = name(i);
        }
    }
    return found;
}

static const char *field_name(unsigned i)
{
    return vmcs_field_name((enum vmcs_field)i);
}

static const char *rule_name(unsigned i)
{
    return check_rules[i].id;
}

const char *names_field_nearest(const char *text)
{
    return nearest(text, field_name, F_COUNT);
}

const char *names_rule_nearest(const char *text)
{
    return nearest(text, rule_name, CHECK_COUNT);
}

bool names_number(const char *text, size_t length, uint64_t *value)
{
    unsigned base = 10;
    if (length > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
        length -= 2;
    }
    uint64_t number = 0;
    bool any = false;
    for (size_t i = 0; i < length; i++) {
        if ((text[i] == '_' || text[i] == '\'') && any)
            continue;
        if (!isxdigit((unsigned char)text[i]))
            return false;
        unsigned digit = isdigit((unsigned char)text[i]) ? (unsigned)(text[i] - '0')
                                                         : (unsigned)(tolower(text[i]) - 'a') + 10;
        if (digit >= base || number > (UINT64_MAX - digit) / base)
            return false;
        number = number * base + digit;
        any = true;
    }
    *value = number;
    return any;
}

enum vmcs_field names_field(const char *text)
{
    uint64_t encoding;
    if (names_number(text, strlen(text), &encoding))
        return encoding <= UINT32_MAX ? field_find((uint32_t)encoding) : F_COUNT;
    for (enum vmcs_field field = 0; field < F_COUNT; field++)
        if (strcasecmp(text, vmcs_field_name(field)) == 0)
            return field;
    return F_COUNT;
}

enum check_index names_rule(const char *text)
{
    uint64_t number;
    bool is_number = names_number(text, strlen(text), &number);
    for (enum check_index i = 0; i < CHECK_COUNT; i++)
        if (is_number ? check_rules[i].number == number : strcasecmp(text, check_rules[i].id) == 0)
            return i;
    return CHECK_COUNT;
}
