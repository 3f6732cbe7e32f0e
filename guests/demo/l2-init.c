// SPDX-License-Identifier: MIT
// The whole user space of the demonstration's L2: /init of a Linux that runs on Linux's KVM that runs on
// Plastron. Says which kernel this is and which hypervisor it sees in CPUID, and ends the machine.

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { HYPERVISOR_PRESENT = 1u << 31, HYPERVISOR_LEAF = 0x40000000 };

// Writes the 12 characters of the hypervisor's signature, or "no hypervisor", as a string.
static void signature_read(char signature[static 14])
{
    unsigned eax, ebx, ecx, edx;
    __cpuid(1, eax, ebx, ecx, edx);
    if ((ecx & HYPERVISOR_PRESENT) == 0) {
        strcpy(signature, "no hypervisor");
        return;
    }
    __cpuid(HYPERVISOR_LEAF, eax, ebx, ecx, edx);
    memcpy(signature, &ebx, 4);
    memcpy(signature + 4, &ecx, 4);
    memcpy(signature + 8, &edx, 4);
    signature[12] = '\0'; // KVM's has nine characters and is padded with zeros
}

int main(void)
{
    struct utsname kernel;
    char signature[14];

    if (uname(&kernel) != 0) {
        perror("L2: uname");
    } else {
        signature_read(signature);
        printf("L2: %s %s on %s\n", kernel.sysname, kernel.release, signature);
    }
    fflush(stdout);
    // A microvm has no power button: QEMU's -no-reboot takes the reset for the end.
    reboot(RB_AUTOBOOT);
    return 1;
}
