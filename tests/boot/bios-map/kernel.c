// SPDX-License-Identifier: MIT
// Prints what the BIOS and what the boot loader say about memory, and how the BIOS takes wrong calls.
#include <stdint.h>

struct registers {
    uint32_t eax, ebx, ecx, edx, edi, flags;
};
#define REGISTERS ((volatile struct registers *)0x7e00)
#define BUFFER    0x7f00u
#define SMAP      0x534d4150u
#define CARRY     1u
#define UNTOUCHED 0xa5a5a5a5u

void real_int15(void); // real.S: with the registers in REGISTERS
void kernel(const uint32_t *info);

static uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void print(const char *text)
{
    for (; *text; text++) {
        while ((in8(0x3fd) & 0x20) == 0)
            ;
        out8(0x3f8, (uint8_t)*text);
    }
}

static void print_number(uint64_t number, const char *after)
{
    char digits[17] = {0};
    for (int i = 15; i >= 0; i--, number >>= 4)
        digits[i] = "0123456789abcdef"[number & 15];
    print(digits);
    print(after);
}

static struct registers call(uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    REGISTERS->eax = eax;
    REGISTERS->ebx = ebx;
    REGISTERS->ecx = ecx;
    REGISTERS->edx = edx;
    REGISTERS->edi = BUFFER;
    REGISTERS->flags = 0;
    real_int15();
    return *REGISTERS;
}

static void print_range(const char *who, uint64_t start, uint64_t length, uint32_t type)
{
    print(who);
    print_number(start, " ");
    print_number(start + length, " ");
    print_number(type, "\n");
}

static uint32_t print_bios_map(void)
{
    volatile uint32_t *entry = (volatile uint32_t *)BUFFER;
    uint32_t next = 0, count = 0;
    do {
        entry[5] = UNTOUCHED;
        struct registers answer = call(0xe820, next, 24, SMAP);
        if ((answer.flags & CARRY) || answer.eax != SMAP || answer.edi != BUFFER ||
            (answer.ecx == 20 && entry[5] != UNTOUCHED)) {
            print("wrong: E820\n");
            return count;
        }
        print_range("bios ", entry[0] | (uint64_t)entry[1] << 32, entry[2] | (uint64_t)entry[3] << 32,
                    entry[4]);
        next = answer.ebx;
        count++;
    } while (next && count < 200);
    return count;
}

static void print_loader_map(const uint32_t *info)
{
    for (uint32_t at = info[12]; at < info[12] + info[11]; at += *(uint32_t *)at + 4) {
        const uint32_t *entry = (const uint32_t *)at;
        print_range("loader ", entry[1] | (uint64_t)entry[2] << 32, entry[3] | (uint64_t)entry[4] << 32,
                    entry[5]);
    }
}

static void print_refused(const char *what, struct registers answer)
{
    print(what);
    print((answer.flags & CARRY) && (answer.eax >> 8 & 0xff) == 0x86 ? " refused\n" : " not refused\n");
}

static void print_size(const char *what, struct registers answer, uint64_t kib)
{
    print(what);
    if (answer.flags & CARRY)
        print("carry ");
    print_number(kib, "\n");
}

void kernel(const uint32_t *info)
{
    out8(0x3fb, 3); // 8 data bits
    uint32_t count = print_bios_map();
    print_loader_map(info);
    print_refused("e820 without SMAP", call(0xe820, 0, 24, 0));
    print_refused("e820 into 19 bytes", call(0xe820, 0, 19, SMAP));
    print_refused("e820 beyond the end", call(0xe820, count, 24, SMAP));
    struct registers answer = call(0xe801, 0, 0, 0);
    print_size("e801 ax, bx ", answer, (answer.eax & 0xffff) + (answer.ebx & 0xffff) * 64ull);
    print_size("e801 cx, dx ", answer, (answer.ecx & 0xffff) + (answer.edx & 0xffff) * 64ull);
    answer = call(0xe881, 0xffffffff, 0xffffffff, 0xffffffff);
    if (!(answer.flags & CARRY)) // an old BIOS need not know it
        print_size("e881 ", answer, answer.ecx + answer.edx * 64ull);
    answer = call(0x8800, 0, 0, 0);
    print_size("88 ", answer, answer.eax & 0xffff);
    print_size("mem_upper ", (struct registers){0}, info[2]);
    print_size("mem_lower ", (struct registers){0}, info[1]);
    print_size("base memory ", (struct registers){0}, *(volatile uint16_t *)0x413);
    answer = call(0xc000, 0, 0, 0); // the system's configuration table: the BIOS itself answers
    print(answer.flags & CARRY ? "c0 carry\n" : "c0 answered\n");
    while ((in8(0x3fd) & 0x40) == 0)
        ; // until COM1 has sent everything
    for (const char *text = "Shutdown"; *text; text++)
        out8(0x8900, (uint8_t)*text);
}
