// SPDX-License-Identifier: MIT
// Where L1's pieces go: looks for free RAM, checks fixed places, and moves modules that are in the way.
#include "load_plan.h"
#include "string.h"

// The end of the run of adjacent RAM ranges that begins with map[*index]; *index becomes the run's last
// range.
static uint64_t run_end(const struct load_plan *plan, uint32_t *index)
{
    while (*index + 1 < plan->map_count && plan->map[*index + 1].type == MEMORY_RAM &&
           plan->map[*index + 1].start == plan->map[*index].end)
        ++*index;
    return plan->map[*index].end;
}

uint64_t plan_ram_end(const struct load_plan *plan, uint64_t start)
{
    for (uint32_t i = 0; i < plan->map_count; i++) {
        const struct memory_range *range = &plan->map[i];
        if (range->type == MEMORY_RAM && start >= range->start && start < range->end)
            return run_end(plan, &i);
    }
    return start;
}

bool plan_is_ram(const struct load_plan *plan, uint64_t start, uint64_t size)
{
    return size <= plan_ram_end(plan, start) - start;
}

static const struct load_piece *find_overlap(const struct load_plan *plan, uint64_t start, uint64_t size)
{
    for (uint32_t i = 0; i < plan->piece_count; i++) {
        if (load_overlap(plan->pieces[i].start, plan->pieces[i].size, start, size))
            return &plan->pieces[i];
    }
    return NULL;
}

bool plan_fits(const struct load_plan *plan, uint64_t start, uint64_t size)
{
    return plan->piece_count < LOAD_PIECES_MAX && plan_is_ram(plan, start, size) &&
           !find_overlap(plan, start, size);
}

bool plan_begin(struct load_plan *plan, const struct l1_load_request *request)
{
    plan->request = request;
    plan->piece_count = 0;
    if (request->module_count == 0)
        return load_refuse(request, "the boot medium holds no L1 image: no module was loaded");
    if (request->module_count > LOAD_MODULES_MAX)
        return load_refuse(request, "there are %lu modules, and Plastron takes at most %lu",
                           (uint64_t)request->module_count, (uint64_t)LOAD_MODULES_MAX);
    if (request->map_count > LOAD_RANGES_MAX)
        return load_refuse(request, "the memory map has %lu ranges, and Plastron takes at most %lu",
                           (uint64_t)request->map_count, (uint64_t)LOAD_RANGES_MAX);
    memcpy(plan->map, request->map, request->map_count * sizeof *plan->map);
    plan->map_count = request->map_count;
    for (uint32_t i = 0; i < request->module_count; i++) {
        const struct l1_module *module = &request->modules[i];
        if (module->size && !plan_is_ram(plan, module->start, module->size))
            return load_refuse(request, "the boot loader put module %lu at %#lx, which is not RAM",
                               (uint64_t)i, module->start);
        plan->module_start[i] = module->start;
    }
    plan_bios(plan);
    return true;
}

struct load_file plan_file(const struct load_plan *plan, uint32_t module)
{
    return (struct load_file){
        .bytes = plan->request->memory + plan->module_start[module],
        .size = plan->request->modules[module].size,
    };
}

bool plan_add_fixed(struct load_plan *plan, struct load_piece piece, const char *what, uint64_t number)
{
    const struct l1_load_request *request = plan->request;
    uint64_t end = piece.start + piece.size;
    if (plan->piece_count == LOAD_PIECES_MAX)
        return load_refuse(request, "the L1 image has more parts than Plastron can place (%lu)",
                           (uint64_t)LOAD_PIECES_MAX);
    if (!plan_is_ram(plan, piece.start, piece.size))
        return load_refuse(request,
                           "%s %lu of the L1 image wants memory %#lx to %#lx, which is not all RAM of L1's",
                           what, number, piece.start, end);
    const struct load_piece *other = find_overlap(plan, piece.start, piece.size);
    if (other)
        return load_refuse(request,
                           "%s %lu of the L1 image (%#lx to %#lx) overlaps another part (%#lx to %#lx)", what,
                           number, piece.start, end, other->start, other->start + other->size);
    plan->pieces[plan->piece_count++] = piece;
    return true;
}

static const struct l1_module *find_module(const struct load_plan *plan, uint64_t start, uint64_t size)
{
    for (uint32_t i = 0; i < plan->request->module_count; i++) {
        const struct l1_module *module = &plan->request->modules[i];
        if (load_overlap(module->start, module->size, start, size))
            return module;
    }
    return NULL;
}

static bool find_lowest(const struct load_plan *plan, uint64_t size, uint64_t align, uint64_t from,
                        uint64_t to, bool avoid_modules, uint64_t *start)
{
    for (uint32_t i = 0; i < plan->map_count; i++) {
        if (plan->map[i].type != MEMORY_RAM)
            continue;
        uint64_t low = plan->map[i].start > from ? plan->map[i].start : from;
        uint64_t high = run_end(plan, &i);
        high = high < to ? high : to;
        for (uint64_t at = load_round_up(low, align); at >= low && at < high && high - at >= size;) {
            const struct load_piece *piece = find_overlap(plan, at, size);
            const struct l1_module *module = avoid_modules ? find_module(plan, at, size) : NULL;
            if (!piece && !module) {
                *start = at;
                return true;
            }
            at = load_round_up(piece ? piece->start + piece->size : module->start + module->size, align);
        }
    }
    return false;
}

// The highest free place in one run of RAM, [low, high).
static bool find_highest_in(const struct load_plan *plan, uint64_t size, uint64_t align, uint64_t low,
                            uint64_t high, bool avoid_modules, uint64_t *start)
{
    while (high > low && high - low >= size) {
        uint64_t at = (high - size) & ~(align - 1);
        if (at < low)
            return false;
        const struct load_piece *piece = find_overlap(plan, at, size);
        const struct l1_module *module = avoid_modules ? find_module(plan, at, size) : NULL;
        if (!piece && !module) {
            *start = at;
            return true;
        }
        high = piece ? piece->start : module->start;
    }
    return false;
}

static bool find_highest(const struct load_plan *plan, uint64_t size, uint64_t align, uint64_t from,
                         uint64_t to, bool avoid_modules, uint64_t *start)
{
    bool found = false;
    for (uint32_t i = 0; i < plan->map_count; i++) {
        if (plan->map[i].type != MEMORY_RAM)
            continue;
        uint64_t low = plan->map[i].start > from ? plan->map[i].start : from;
        uint64_t high = run_end(plan, &i);
        if (find_highest_in(plan, size, align, low, high < to ? high : to, avoid_modules, start))
            found = true; // the ranges ascend: the last find is the highest
    }
    return found;
}

static bool add_at(struct load_plan *plan, struct load_piece piece, uint64_t start)
{
    piece.start = start;
    plan->pieces[plan->piece_count++] = piece;
    return true;
}

bool plan_add_lowest(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                     uint64_t to, uint64_t *start)
{
    return plan->piece_count < LOAD_PIECES_MAX &&
           find_lowest(plan, piece.size, align, from, to, false, start) && add_at(plan, piece, *start);
}

bool plan_add_aside(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                    uint64_t to, uint64_t *start)
{
    return plan->piece_count < LOAD_PIECES_MAX &&
           find_lowest(plan, piece.size, align, from, to, true, start) && add_at(plan, piece, *start);
}

bool plan_add_highest(struct load_plan *plan, struct load_piece piece, uint64_t align, uint64_t from,
                      uint64_t to, uint64_t *start)
{
    return plan->piece_count < LOAD_PIECES_MAX &&
           find_highest(plan, piece.size, align, from, to, false, start) && add_at(plan, piece, *start);
}

// Would filling the piece destroy bytes of the module before they have been read?
static bool piece_destroys(const struct load_plan *plan, const struct load_piece *piece, uint32_t module)
{
    const struct l1_module *m = &plan->request->modules[module];
    if (piece->kind != PIECE_FILE && piece->kind != PIECE_BUILT)
        return false;
    if (!load_overlap(piece->start, piece->size, m->start, m->size))
        return false;
    bool in_place = piece->kind == PIECE_FILE && piece->module == module && piece->size == piece->length &&
                    piece->start == m->start + piece->offset;
    return !in_place;
}

bool plan_finish(struct load_plan *plan)
{
    const struct l1_load_request *request = plan->request;
    uint32_t placed = plan->piece_count; // what is added below only waits
    for (uint32_t i = 0; i < request->module_count; i++) {
        bool in_the_way = false;
        for (uint32_t p = 0; p < placed && !in_the_way; p++)
            in_the_way = piece_destroys(plan, &plan->pieces[p], i);
        if (!in_the_way)
            continue;
        struct load_piece stage = {.kind = PIECE_STAGE, .size = request->modules[i].size, .module = i};
        if (plan->piece_count == LOAD_PIECES_MAX ||
            !find_highest(plan, stage.size, LOAD_PAGE, LOAD_1M, UINT64_MAX, true, &stage.start))
            return load_refuse(request,
                               "there is too little memory to move module %lu (%lu bytes) out of the way",
                               (uint64_t)i, stage.size);
        plan->pieces[plan->piece_count++] = stage;
    }
    return true;
}

// Every module that a piece destroys has a waiting place that overlaps neither a piece nor a module; so
// nothing is read after it was overwritten, in whatever order the pieces are filled.
void plan_commit(struct load_plan *plan)
{
    uint8_t *memory = plan->request->memory;
    for (uint32_t i = 0; i < plan->piece_count; i++) {
        const struct load_piece *stage = &plan->pieces[i];
        if (stage->kind != PIECE_STAGE)
            continue;
        memcpy(memory + stage->start, memory + plan->module_start[stage->module], stage->size);
        plan->module_start[stage->module] = stage->start;
    }
    for (uint32_t i = 0; i < plan->piece_count; i++) {
        const struct load_piece *piece = &plan->pieces[i];
        uint8_t *to = memory + piece->start;
        if (piece->kind == PIECE_FILE) {
            const uint8_t *from = memory + plan->module_start[piece->module] + piece->offset;
            if (to != from)
                memcpy(to, from, piece->length);
            memset(to + piece->length, 0, piece->size - piece->length);
        } else if (piece->kind == PIECE_BUILT) {
            memset(to, 0, piece->size);
        }
    }
}
