// SPDX-License-Identifier: MIT
// The command's exit statuses. They are part of the interface: `plastron run --help` lists them, CI jobs test
// for them.
#ifndef PLASTRON_CLI_STATUS_H
#define PLASTRON_CLI_STATUS_H

enum status {
    STATUS_OK = 0,       // L1 ended as it should, and every expected line was seen
    STATUS_UNMET = 1,    // L1 ended, but not well: an expected line never came, or it died of a triple fault
    STATUS_USAGE = 2,    // the command line is wrong, or names a file that cannot be read
    STATUS_REFUSED = 3,  // Plastron or GRUB refused the image or the machine
    STATUS_PANIC = 4,    // Plastron itself failed
    STATUS_TIMEOUT = 5,  // the time was up first
    STATUS_HOST = 6,     // this computer lacks something that is needed
    STATUS_EMULATOR = 7, // the emulator failed by itself
    STATUS_INTERRUPTED = 128 // plus the number of the signal (Ctrl-C: 130)
};

#endif
