// SPDX-License-Identifier: MIT
// The puppet: a Multiboot 1 kernel of one file that does what its command line says, word by word, so that
// the tests of the command `plastron` can see every way in which a machine can begin, talk and end. It is no
// hypervisor.
//
//   say=TEXT    print "TEXT" and a newline on COM1        (in TEXT, an underscore is a space)
//   modules     print each Multiboot module's command line and length
//   memory      print the upper memory's size in KiB
//   flood=N     print N numbered lines of 64 characters as fast as COM1 takes them
//   echo        print what COM1 receives until a "q" arrives
//   loop        never do anything again (interrupts off, not halted)
//   halt        the same, halted
//   shutdown    write "Shutdown" to port 0x8900;   poweroff   ACPI's S5;   triple   triple fault
//   sleep=N     ask for SLP_TYP N by writes of 16, 8 and 32 bits, and say what the PM1 control register holds
//   states      say which of the objects _S1_ to _S5_ ACPI's DSDT has
//   reset       the keyboard controller's reset line;         reset=cf9    the chipset's reset register
// The end of the command line counts as `shutdown`.
#include <stdint.h>

#define MULTIBOOT_MAGIC  0x1badb002u
#define MULTIBOOT_LOADED 0x2badb002u
#define COM1             0x3f8

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, module_count, modules;
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

__attribute__((section(".multiboot"), used)) static const uint32_t header[] = {
    MULTIBOOT_MAGIC, 3, -(MULTIBOOT_MAGIC + 3), // 3: page-aligned modules, memory sizes
};

static uint8_t stack[8192] __attribute__((used, aligned(16)));

__asm__(".globl _start\n"
        "_start: mov $stack + 8192, %esp\n"
        "        push %ebx\n"
        "        push %eax\n"
        "        call puppet_main\n");

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put(char c)
{
    while (!(in8(COM1 + 5) & 0x20))
        ;
    out8(COM1, (uint8_t)c);
}

static void print(const char *text)
{
    for (; *text; text++)
        put(*text);
}

static void print_number(uint32_t number)
{
    char digits[11];
    char *p = digits + sizeof(digits);
    *--p = 0;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    print(p);
}

static void halt(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

// The machine must not end before the last characters have left COM1.
static void drain(void)
{
    while (!(in8(COM1 + 5) & 0x40))
        ;
}

static void shutdown(void)
{
    for (const char *p = "Shutdown"; *p; p++)
        out8(0x8900, (uint8_t)*p);
    halt();
}

// The power management registers' base is in PCI configuration space: PIIX4 (Bochs, QEMU's pc machine),
// function 3.
static uint16_t pm1_control(void)
{
    out32(0xcf8, 0x80000000u | 1 << 11 | 3 << 8 | 0x40);
    uint16_t base = (uint16_t)(in32(0xcfc) & 0xffc0);
    if (!(base && base != 0xffc0))
        base = 0xb000;
    return (uint16_t)(base + 4);
}

static void poweroff(void)
{
    out16(pm1_control(), 0x2000);
    halt();
}

// SLP_EN with it. A machine that goes to sleep never says the last line.
static void sleep(uint32_t type)
{
    uint16_t port = pm1_control();
    uint32_t value = 0x2000 | type << 10;
    out16(port, (uint16_t)value);
    out8((uint16_t)(port + 1), (uint8_t)(value >> 8));
    out32(port, value);
    print("awake, SLP_TYP ");
    print_number((uint32_t)in16(port) >> 10 & 7);
    print("\n");
}

static uint32_t read32(uint32_t at)
{
    return *(const volatile uint32_t *)(uintptr_t)at;
}

// RSDP, RSDT, FADT, DSDT.
static void states(void)
{
    uint32_t rsdp = 0xe0000, fadt = 0;
    while (rsdp < 0x100000 && !(read32(rsdp) == 0x20445352 && read32(rsdp + 4) == 0x20525450)) // "RSD PTR "
        rsdp += 16;
    uint32_t rsdt = rsdp < 0x100000 ? read32(rsdp + 16) : 0;
    for (uint32_t at = rsdt + 36; rsdt != 0 && at < rsdt + read32(rsdt + 4); at += 4)
        if (read32(read32(at)) == 0x50434146) // "FACP"
            fadt = read32(at);
    uint32_t dsdt = fadt != 0 ? read32(fadt + 40) : 0, end = dsdt != 0 ? dsdt + read32(dsdt + 4) : 0;
    uint8_t sum = 0;
    print("the DSDT has");
    for (uint32_t at = dsdt; at < end; at++) {
        sum = (uint8_t)(sum + *(const volatile uint8_t *)(uintptr_t)at);
        for (uint32_t n = 1; n <= 5; n++)
            if (at + 4 <= end && read32(at) == (0x5f00535f | ('0' + n) << 16)) {
                print(" S");
                print_number(n);
            }
    }
    print(sum == 0 ? " and a good checksum\n" : " and a bad checksum\n");
}

static void triple(void)
{
    static const struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) empty = {0, 0};
    __asm__ volatile("lidt %0; int3" : : "m"(empty));
    halt();
}

static void flood(uint32_t lines)
{
    for (uint32_t i = 0; i < lines; i++) {
        print("line ");
        print_number(100000000 + i);
        for (int k = 0; k < 49; k++)
            put((char)('a' + (i + (uint32_t)k) % 26));
        put('\n');
    }
}

static void echo(void)
{
    for (;;) {
        while (!(in8(COM1 + 5) & 1))
            ;
        char c = (char)in8(COM1);
        if (c == 'q')
            return;
        if ((uint8_t)c < 32 && c != '\n' && c != '\r') {
            put('^');
            c = (char)(c + '@');
        }
        put(c);
    }
}

static void list_modules(const struct multiboot_info *info)
{
    const struct multiboot_module *module = (const struct multiboot_module *)(uintptr_t)info->modules;
    for (uint32_t i = 0; i < info->module_count; i++) {
        print("module ");
        print_number(i + 1);
        print(": ");
        print_number(module[i].end - module[i].start);
        print(" bytes, \"");
        print((const char *)(uintptr_t)module[i].string);
        print("\"\n");
    }
}

// Does `word` (it ends at a space) begin with `name` and then a space or the end, or "=" and a value? Where
// is that?
static const char *match(const char *word, const char *name)
{
    while (*name && *word == *name)
        word++, name++;
    if (*name || (*word && *word != ' ' && *word != '='))
        return 0;
    return *word == '=' ? word + 1 : word;
}

static uint32_t number(const char *digits)
{
    uint32_t value = 0;
    while (*digits >= '0' && *digits <= '9')
        value = value * 10 + (uint32_t)(*digits++ - '0');
    return value;
}

static void obey(const char *word, const struct multiboot_info *info)
{
    const char *value;
    if ((value = match(word, "say"))) {
        for (; *value && *value != ' '; value++)
            put(*value == '_' ? ' ' : *value);
        put('\n');
    } else if (match(word, "modules")) {
        list_modules(info);
    } else if (match(word, "memory")) {
        print("memory ");
        print_number(info->mem_upper);
        print(" KiB\n");
    } else if ((value = match(word, "flood"))) {
        flood(number(value));
    } else if (match(word, "echo")) {
        echo();
    } else if (match(word, "loop")) {
        for (;;)
            __asm__ volatile("cli");
    } else if (match(word, "halt")) {
        halt();
    } else if (match(word, "shutdown")) {
        shutdown();
    } else if (match(word, "poweroff")) {
        poweroff();
    } else if ((value = match(word, "sleep"))) {
        sleep(number(value));
    } else if (match(word, "states")) {
        states();
    } else if (match(word, "triple")) {
        triple();
    } else if ((value = match(word, "reset"))) {
        if (match(value, "cf9"))
            out8(0xcf9, 2), out8(0xcf9, 6);
        else
            out8(0x64, 0xfe);
        halt();
    }
}

void puppet_main(uint32_t magic, const struct multiboot_info *info);

void puppet_main(uint32_t magic, const struct multiboot_info *info)
{
    out8(COM1 + 3, 0x80);
    out8(COM1, 1); // 115200 baud
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 3);
    out8(COM1 + 2, 0xc7);
    out8(COM1 + 4, 3);
    print(magic == MULTIBOOT_LOADED ? "puppet: here\n" : "puppet: not loaded by Multiboot\n");
    const char *word = (info->flags & 4) ? (const char *)(uintptr_t)info->cmdline : "";
    print("puppet: command line: ");
    print(word);
    put('\n');
    while (*word) {
        drain();
        obey(word, info);
        while (*word && *word != ' ')
            word++;
        while (*word == ' ')
            word++;
    }
    drain();
    shutdown();
}
