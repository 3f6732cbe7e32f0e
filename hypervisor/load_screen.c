// SPDX-License-Identifier: MIT
// What the firmware's BIOS data area says about the screen. Without a BIOS (UEFI) that memory says nothing,
// and L1 is told of no screen.
#include "load_plan.h"

enum bios_data {
    BIOS_VIDEO_MODE = 0x449,
    BIOS_COLUMNS = 0x44a,
    BIOS_CURSOR_PAGE_0 = 0x450, // column, row
    BIOS_LAST_ROW = 0x484,
    BIOS_CHARACTER_HEIGHT = 0x485,
    BIOS_DATA_END = 0x500,
};

struct load_screen load_screen_find(const struct load_plan *plan)
{
    if (!plan_is_ram(plan, 0, BIOS_DATA_END))
        return (struct load_screen){0};
    const uint8_t *memory = plan->request->memory;
    struct load_screen screen = {
        .columns = load_get16(memory + BIOS_COLUMNS),
        .rows = memory[BIOS_LAST_ROW] + 1u,
        .cursor_column = memory[BIOS_CURSOR_PAGE_0],
        .cursor_row = memory[BIOS_CURSOR_PAGE_0 + 1],
        .character_height = load_get16(memory + BIOS_CHARACTER_HEIGHT),
    };
    bool is_colour_text = memory[BIOS_VIDEO_MODE] == 2 || memory[BIOS_VIDEO_MODE] == 3;
    bool is_plausible = screen.columns == 80 && screen.rows >= 25 && screen.rows <= 60 &&
                        screen.character_height >= 8 && screen.character_height <= 16;
    return is_colour_text && is_plausible ? screen : (struct load_screen){0};
}
