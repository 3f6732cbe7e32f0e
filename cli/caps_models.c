// SPDX-License-Identifier: MIT
// Processors by name. The first one is nobody's: the most that the manual lets a processor have, so that what
// it refuses no processor accepts.
#include "caps_input.h"

#include <stdio.h>

const struct caps_model caps_models[] = {
    {CAPS_MODEL_DEFAULT,
     "every capability that the manual defines, 52 physical-address bits; no real processor",
     {0x01d8100000000001, 0x000000ff00000016, 0xfffbfffe0401e172, 0xffffffff00036dff, 0x00ffffff000011ff,
      0x000000007004c1e7, 0x0000000080000021, 0x00000000ffffffff, 0x0000000000002000, 0x0000000113ff7fff,
      0x000000000000003e, 0xdfffffff00000000, 0x00000f0106f341c1, 0x000000ff00000016, 0xfffbfffe04006172,
      0xffffffff00036dfb, 0x00ffffff000011fb, 0x0000000000000001},
     52,
     FEATURE_ALL,
     0x0001ffffffffffff},
    {"ivy-bridge",
     "a processor of 2012: no virtualization of the APIC, no PAUSE-loop exiting, no VM functions",
     {0x00da040000000010, 0x0000007f00000016, 0xfff9fffe0401e172, 0x007fffff00036dff, 0x0000ffff000011ff,
      0x00000000100401e5, 0x0000000080000021, 0x00000000ffffffff, 0x0000000000002000, 0x00000000001767ff,
      0x000000000000002a, 0x000008ff00000000, 0x00000f0106114141, 0x0000007f00000016, 0xfff9fffe04006172,
      0x007fffff00036dfb, 0x0000ffff000011fb, 0x0000000000000000},
     36,
     0,
     0x000000070000000f},
    {"coffee-lake",
     "a desktop processor of 2018 (family 6, model 158, stepping 10): no virtualization of the APIC",
     {0x00da040000000004, 0x0000007f00000016, 0xfff9fffe0401e172, 0x01ffffff00036dff, 0x0003ffff000011ff,
      0x000000007004c1e7, 0x0000000080000021, 0x00000000ffffffff, 0x0000000000002000, 0x00000000003727ff,
      0x000000000000002e, 0x005fbcff00000000, 0x00000f0106734141, 0x0000007f00000016, 0xfff9fffe04006172,
      0x01ffffff00036dfb, 0x0003ffff000011fb, 0x0000000000000001},
     39,
     FEATURE_SGX | FEATURE_RTM,
     0x000000070000000f},
    {"bochs-skylake-x",
     "Bochs 3.0's corei7_skylake_x, the machine of `plastron run --bare`",
     {0x00d810000000002b, 0x000000ff00000016, 0xfff9fffe0401e172, 0x407fffff00036dff, 0x0000ffff000011ff,
      0x00000000600401e0, 0x0000000080000021, 0x00000000ffffffff, 0x0000000000002000, 0x00000000003727ff,
      0x0000000000000050, 0x02577fff00000000, 0x00000f0106734141, 0x000000ff00000016, 0xfff9fffe04006172,
      0x407fffff00036dfb, 0x0000ffff000011fb, 0x0000000000000001},
     40,
     0,
     0x000000070000000f},
};
const unsigned caps_model_count = sizeof(caps_models) / sizeof(caps_models[0]);

void caps_print_models(void)
{
    for (unsigned i = 0; i < caps_model_count; i++)
        printf("%-16s %s\n", caps_models[i].name, caps_models[i].what);
    printf("%-16s %s\n", "plastron",
           "what Plastron offers L1 on bochs-skylake-x, the machine of `plastron run`");
}
