// SPDX-License-Identifier: MIT
// EPT pointers and paging-structure entries, and the qualification of EPT violations.
// Manual: The Extended Page Table Mechanism (EPT); Exit Qualification for EPT Violations.
#ifndef ENGINE_EPT_H
#define ENGINE_EPT_H

#include <nvmx/types.h>

#define EPTP_WB_4      (6 | 3 << 3) // write-back paging structures, page-walk length 4
#define EPTP_ENABLE_AD (1ull << 6)

// The same bits in an entry, in the qualification (what was accessed), and 3 further up there (what may be).
#define EPT_READ    (1ull << 0)
#define EPT_WRITE   (1ull << 1)
#define EPT_EXECUTE (1ull << 2) // with mode-based execute control: of supervisor-mode linear addresses
#define EPT_RIGHTS  7ull
// Our own form of rights has this one, too: fetches from user-mode linear addresses.
#define EPT_EXECUTE_USER   (1ull << 3)
#define EPT_EXECUTE_ANY    (EPT_EXECUTE | EPT_EXECUTE_USER)
#define EPT_RIGHTS_AND_ALL (EPT_RIGHTS | EPT_EXECUTE_USER)

#define EPT_TYPE_SHIFT         3
#define EPT_IGNORE_PAT         (1ull << 6)
#define EPT_LARGE              (1ull << 7)
#define EPT_ACCESSED           (1ull << 8)
#define EPT_DIRTY              (1ull << 9)
#define EPT_ENTRY_EXECUTE_USER (1ull << 10) // with mode-based execute control; else ignored
#define EPT_SUPPRESS_VE        (1ull << 63)
#define EPT_ADDRESS            0x000ffffffffff000ull

#define VIOLATION_RIGHTS_SHIFT   3
#define VIOLATION_EXECUTE_USER   (1ull << 6)
#define VIOLATION_LINEAR         (1ull << 7) // the guest-linear address is valid
#define VIOLATION_TRANSLATED     (1ull << 8) // ... and was translated: not an access to a guest paging structure
#define VIOLATION_ADVANCED       (7ull << 9) // what L2's paging says of the linear address
#define VIOLATION_NMI_UNBLOCKING (1ull << 12)

#endif
