// SPDX-License-Identifier: MIT
// ept02: what L1's EPT maps, in machine addresses; filled when L2 misses, dropped when L1 invalidates, like
// the TLB that it is. One set of roots a vcpu, so that L1's INVEPT on one processor concerns this one's ept02
// only. Memory is a fixed pool; when it runs out, the root that was not used for longest is dropped.
// Manual: The Extended Page Table Mechanism (EPT); Caching Translation Information.
#include "engine.h"
#include "ept.h"

// Beside the EPT pointer: whether entries mean what mode-based execute control makes of them.
#define KEY_MODE_BASED (1ull << 63)

static l0pa_t pool_page(const struct ept02 *ept02, uint32_t number)
{
    return l0pa(ept02->pool.value + number * PAGE_SIZE);
}

// The pool's first pages are of ones and stand where L1 has nothing; the roots follow.
enum { ONES_PAGE, SCRATCH_PAGE, HARDWARE_PAGE, FIRST_ROOT };

void ept02_init(struct ept02 *ept02, l0pa_t pool, uint32_t pages)
{
    *ept02 = (struct ept02){.pool = pool, .pool_pages = pages, .fresh = FIRST_ROOT + EPT02_ROOT_COUNT};
    ept02->ones_page = pool_page(ept02, ONES_PAGE);
    ept02->scratch_page = pool_page(ept02, SCRATCH_PAGE);
    ept02->hardware_page = pool_page(ept02, HARDWARE_PAGE);
    for (uint32_t i = 0; i < FIRST_ROOT; i++)
        page_fill(pool_page(ept02, i), ~0ull);
    for (uint32_t i = 0; i < EPT02_ROOT_COUNT; i++) {
        ept02->root[i].pml4 = pool_page(ept02, FIRST_ROOT + i);
        page_fill(ept02->root[i].pml4, 0);
    }
}

static bool table_allocate(struct ept02 *ept02, l0pa_t *table)
{
    if (ept02->free_list != 0) {
        *table = pool_page(ept02, ept02->free_list - 1);
        ept02->free_list = (uint32_t) * (uint64_t *)port_l0_map(*table);
    } else if (ept02->fresh < ept02->pool_pages) {
        *table = pool_page(ept02, ept02->fresh++);
    } else {
        return false;
    }
    page_fill(*table, 0);
    return true;
}

static void table_free(struct ept02 *ept02, l0pa_t table)
{
    *(uint64_t *)port_l0_map(table) = ept02->free_list;
    ept02->free_list = (uint32_t)((table.value - ept02->pool.value) / PAGE_SIZE) + 1;
}

static bool entry_is_table(uint64_t entry, unsigned level)
{
    return level > 0 && (entry & EPT_RIGHTS) != 0 && (entry & EPT_LARGE) == 0;
}

// The tables below an entry of `level` go back to the pool. The depth is that of the paging structures: 3.
static void subtree_free(struct ept02 *ept02, uint64_t entry, unsigned level)
{
    if (!entry_is_table(entry, level))
        return;
    l0pa_t table = l0pa(entry & EPT_ADDRESS);
    const uint64_t *below = port_l0_map(table);
    for (unsigned i = 0; i < 512 && level > 1; i++)
        subtree_free(ept02, below[i], level - 1);
    table_free(ept02, table);
}

static uint64_t root_pointer(const struct ept02_root *root)
{
    return root->pml4.value | EPTP_WB_4 | (root->key & EPTP_ENABLE_AD);
}

static bool is_mode_based(const struct ept02_root *root)
{
    return (root->key & KEY_MODE_BASED) != 0;
}

static void root_drop(struct nvmx_vcpu *vcpu, struct ept02_root *root)
{
    if (!root->filled)
        return;
    uint64_t *entry = port_l0_map(root->pml4);
    for (unsigned i = 0; i < 512; i++) {
        subtree_free(&vcpu->ept02, entry[i], 3);
        entry[i] = 0;
    }
    root->filled = false;
    hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(root));
}

uint64_t ept02_use(struct nvmx_vcpu *vcpu, uint64_t eptp12)
{
    struct ept02 *ept02 = &vcpu->ept02;
    struct ept02_root *current = &ept02->root[ept02->current];
    uint64_t key = eptp12;
    if ((vmcs12_secondary(vcpu) & SECONDARY_MODE_BASED_EXECUTE_CONTROL) != 0)
        key |= KEY_MODE_BASED;
    if (current->valid && current->key == key)
        return root_pointer(current);
    current->last_used = ++ept02->clock;
    uint32_t oldest = 0, i;
    for (i = 0; i < EPT02_ROOT_COUNT; i++) {
        if (ept02->root[i].valid && ept02->root[i].key == key)
            break;
        if (ept02->root[i].last_used < ept02->root[oldest].last_used)
            oldest = i;
    }
    if (i == EPT02_ROOT_COUNT) {
        i = oldest;
        root_drop(vcpu, &ept02->root[i]);
        if (!ept02->root[i].valid) // its page may have been the root of a vcpu that was destroyed
            hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(&ept02->root[i]));
        ept02->root[i].valid = true;
        ept02->root[i].key = key;
    }
    ept02->current = i;
    ept02->logs = true; // for all that is known of it
    return root_pointer(&ept02->root[i]);
}

// The manual tags translations with bits 51:12 of the EPT pointer: all that L1 used with this root go.
void ept02_drop(struct nvmx_vcpu *vcpu, uint64_t eptp12)
{
    for (uint32_t i = 0; i < EPT02_ROOT_COUNT; i++) {
        struct ept02_root *root = &vcpu->ept02.root[i];
        if (root->valid && ((root->key ^ eptp12) & EPT_ADDRESS) == 0)
            root_drop(vcpu, root);
    }
}

void ept02_drop_all(struct nvmx_vcpu *vcpu)
{
    for (uint32_t i = 0; i < EPT02_ROOT_COUNT; i++)
        root_drop(vcpu, &vcpu->ept02.root[i]);
}

// The vcpu comes to a logical processor: what that one cached under these roots' addresses, from another
// time, goes.
void ept02_load(struct nvmx_vcpu *vcpu)
{
    for (uint32_t i = 0; i < EPT02_ROOT_COUNT; i++) {
        struct ept02_root *root = &vcpu->ept02.root[i];
        if (root->valid)
            hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(root));
    }
}

static void table_protect(l0pa_t table, unsigned level)
{
    uint64_t *entry = port_l0_map(table);
    for (unsigned i = 0; i < 512; i++)
        if (entry_is_table(entry[i], level))
            table_protect(l0pa(entry[i] & EPT_ADDRESS), level - 1);
        else
            entry[i] &= ~EPT_WRITE;
}

// With page-modification logging: L1 may have cleared dirty flags, and its entry without VPID drops the
// translations of L2's linear addresses. The manual lets the processor keep guest-physical ones until INVEPT;
// L1s are known that do without it.
void ept02_protect(struct nvmx_vcpu *vcpu)
{
    struct ept02_root *root = &vcpu->ept02.root[vcpu->ept02.current];
    if (!vcpu->ept02.logs)
        return;
    vcpu->ept02.logs = false;
    table_protect(root->pml4, 3);
    hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(root));
}

// The entry of `level` that maps the address, with the tables above it; NULL: the pool is empty.
static uint64_t *entry_reach(struct nvmx_vcpu *vcpu, struct ept02_root *root, l2pa_t address, unsigned level,
                             bool *replaced)
{
    l0pa_t table = root->pml4;
    for (unsigned at = 3;; at--) {
        uint64_t *entry = (uint64_t *)port_l0_map(table) + (address.value >> (PAGE_SHIFT + 9 * at) & 511);
        if (at == level)
            return entry;
        if (!entry_is_table(*entry, at)) {
            if (!table_allocate(&vcpu->ept02, &table))
                return NULL;
            *replaced |= *entry != 0; // a larger page was here
            *entry = table.value | EPT_RIGHTS | (is_mode_based(root) ? EPT_ENTRY_EXECUTE_USER : 0);
        }
        table = l0pa(*entry & EPT_ADDRESS);
    }
}

// The pool is empty: what the root maps that was not used for longest goes, and the current one's last.
static void pool_reclaim(struct nvmx_vcpu *vcpu)
{
    struct ept02 *ept02 = &vcpu->ept02;
    struct ept02_root *current = &ept02->root[ept02->current], *oldest = current;
    for (uint32_t i = 0; i < EPT02_ROOT_COUNT; i++) {
        struct ept02_root *root = &ept02->root[i];
        if (root != current && root->filled && (oldest == current || root->last_used < oldest->last_used))
            oldest = root;
    }
    ept02->reclaim_count++;
    root_drop(vcpu, oldest);
}

// false: the very leaf was there already.
static bool leaf_install(struct nvmx_vcpu *vcpu, l2pa_t address, unsigned level, uint64_t leaf)
{
    struct ept02_root *root = &vcpu->ept02.root[vcpu->ept02.current];
    bool replaced = false;
    uint64_t *entry = NULL;
    for (unsigned dropped = 0; entry == NULL; dropped++) {
        root->filled = true; // also by a path that the pool has not enough pages for
        entry = entry_reach(vcpu, root, address, level, &replaced);
        if (entry == NULL && dropped == EPT02_ROOT_COUNT)
            port_bug("ept02's pool holds not even one path; pages", vcpu->ept02.pool_pages, 0);
        if (entry == NULL)
            pool_reclaim(vcpu);
    }
    if ((*entry & ~(EPT_ACCESSED | EPT_DIRTY)) == leaf) // the processor's own flags
        return false;
    if (entry_is_table(*entry, level))
        subtree_free(&vcpu->ept02, *entry, level);
    // The miss dropped what the processor held for the address, not for the rest of a large page.
    if (level > 0 && *entry != 0)
        replaced = true;
    *entry = leaf;
    vcpu->ept02.logs |= (leaf & EPT_WRITE) != 0;
    vcpu->ept02.fill_count++;
    if (replaced)
        hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(root));
    return true;
}

// The leaf that maps the address, if the root still has one.
static uint64_t *leaf_find(const struct ept02_root *root, l2pa_t address)
{
    l0pa_t table = root->pml4;
    for (unsigned at = 3;; at--) {
        uint64_t *entry = (uint64_t *)port_l0_map(table) + (address.value >> (PAGE_SHIFT + 9 * at) & 511);
        if (at == 0)
            return entry;
        if (!entry_is_table(*entry, at))
            return NULL;
        table = l0pa(*entry & EPT_ADDRESS);
    }
}

// L2 writes where L1 has nothing: for one instruction there is a page that takes it.
static void hole_open(struct nvmx_vcpu *vcpu, l2pa_t address)
{
    struct ept02 *ept02 = &vcpu->ept02;
    if (ept02->open_count != 0 && ept02->open_root != ept02->current)
        ept02_close_holes(vcpu); // L2 changed its EPT pointer in between
    ept02->open_root = ept02->current;
    if (ept02->open_count < EPT02_OPEN_MAX)
        ept02->open[ept02->open_count] = address;
    ept02->open_count++;
    nvmx_step_begin(vcpu);
}

void ept02_close_holes(struct nvmx_vcpu *vcpu)
{
    struct ept02 *ept02 = &vcpu->ept02;
    struct ept02_root *root = &ept02->root[ept02->open_root];
    if (ept02->open_count == 0)
        return;
    if (ept02->open_count > EPT02_OPEN_MAX)
        root_drop(vcpu, root);
    for (uint32_t i = 0; i < ept02->open_count && i < EPT02_OPEN_MAX; i++) {
        uint64_t *leaf = leaf_find(root, ept02->open[i]);
        if (leaf != NULL && (*leaf & EPT_ADDRESS) == ept02->scratch_page.value)
            *leaf = (*leaf & ~(EPT_ADDRESS | EPT_WRITE)) | ept02->ones_page.value;
    }
    hw_invept(vcpu->cpu, INVEPT_SINGLE_CONTEXT, root_pointer(root));
    ept02->open_count = 0;
    page_fill(ept02->scratch_page, ~0ull);
}

l0pa_t ept02_hardware_page(struct nvmx_vcpu *vcpu)
{
    page_fill(vcpu->ept02.hardware_page, ~0ull);
    return vcpu->ept02.hardware_page;
}

// Both mappings in one: as large as both allow and the processor offers. The memory type is L1's, as it would
// be on the processor, where EPT takes the place of the MTRRs.
enum ept02_filled ept02_fill(struct nvmx_vcpu *vcpu, l2pa_t address, const struct ept12_leaf *leaf12,
                             uint64_t rights, uint64_t access)
{
    uint64_t caps = vcpu->config.hardware->msr[MSR_IA32_VMX_EPT_VPID_CAP - CAPS_MSR_FIRST];
    uint64_t l1_address = leaf12->address | (address.value & (leaf12->size - 1));
    struct port_mapping mapping01;
    if (!port_l1_translate(vcpu, l1pa(l1_address), &mapping01)) {
        bool write = (access & EPT_WRITE) != 0;
        mapping01 = (struct port_mapping){
            .l0 = write ? vcpu->ept02.scratch_page : vcpu->ept02.ones_page,
            .size = PAGE_SIZE,
            .readable = true,
            .writable = write,
            .executable = true,
        };
        if (write)
            hole_open(vcpu, address);
    }
    rights &= (mapping01.readable ? EPT_READ : 0) | (mapping01.writable ? EPT_WRITE : 0) |
              (mapping01.executable ? EPT_EXECUTE_ANY : 0);
    uint64_t leaf = rights & EPT_RIGHTS;
    if (is_mode_based(&vcpu->ept02.root[vcpu->ept02.current]) && (rights & EPT_EXECUTE_USER) != 0)
        leaf |= EPT_ENTRY_EXECUTE_USER;
    uint64_t size = leaf12->size < mapping01.size ? leaf12->size : mapping01.size;
    unsigned level = size >= 1ull << 30 && (caps & EPT_CAP_PAGE_1G) != 0 ? 2 : size >= 1ull << 21 ? 1 : 0;
    uint64_t page_mask = (1ull << (PAGE_SHIFT + 9 * level)) - 1;
    uint64_t l0_page = mapping01.l0.value & ~page_mask & EPT_ADDRESS;
    leaf |= l0_page | (uint64_t)leaf12->memory_type << EPT_TYPE_SHIFT |
            (leaf12->ignore_pat ? EPT_IGNORE_PAT : 0) | (level > 0 ? EPT_LARGE : 0);
    bool changed = leaf_install(vcpu, address, level, leaf);
    if ((access & (EPT_READ | EPT_WRITE) & ~rights) != 0 ||
        ((access & EPT_EXECUTE) != 0 && (rights & EPT_EXECUTE_ANY) == 0))
        return EPT02_REFUSED;
    return changed ? EPT02_CHANGED : EPT02_UNCHANGED;
}
