// SPDX-License-Identifier: MIT
// The state of engine, L0 and model, to go back to: their structures, the VMCSs in the processors' caches,
// and those pages of memory that ever changed (the first write to a page faults, and is noted).
#include "life.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define DIRTY_LIMIT  512
#define ACTIVE_LIMIT 8
#define RECORD_LIMIT (sizeof(((struct machine *)NULL)->record) / sizeof(struct vmcs_record *))

static struct {
    uint64_t address[DIRTY_LIMIT];
    uint8_t *first[DIRTY_LIMIT]; // what the page held at snapshot_begin
    unsigned count;
} dirty;

struct snapshot {
    struct world world;
    struct machine machine;
    struct hw_cpu cpu[2];
    struct nvmx_vcpu vcpu;
    struct active_vmcs active[2][ACTIVE_LIMIT];
    unsigned active_count[2];
    uint64_t record_left[RECORD_LIMIT];
    unsigned page_count;
    uint8_t page[DIRTY_LIMIT][PAGE_SIZE];
};

static void on_fault(int number, siginfo_t *information, void *context)
{
    (void)number;
    (void)context;
    uint8_t *at = information->si_addr, *memory = world->machine->memory;
    uint64_t size = world->machine->config.memory_size;
    if (at < memory || at >= memory + size || dirty.count == DIRTY_LIMIT) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint64_t page = (uint64_t)(at - memory) & PAGE_MASK;
    dirty.address[dirty.count] = page;
    dirty.first[dirty.count] = malloc(PAGE_SIZE);
    memcpy(dirty.first[dirty.count++], memory + page, PAGE_SIZE);
    mprotect(memory + page, PAGE_SIZE, PROT_READ | PROT_WRITE);
}

void snapshot_begin(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    mprotect(world->machine->memory, world->machine->config.memory_size, PROT_READ);
}

struct snapshot *snapshot_new(void)
{
    return calloc(1, sizeof(struct snapshot)); // in which no translation is cached
}

// Most of it is cached translations, of which there are often none.
static void copy_cpu(struct hw_cpu *to, const struct hw_cpu *from)
{
    size_t tlb = offsetof(struct hw_cpu, tlb), behind = tlb + sizeof(from->tlb);
    memcpy(to, from, tlb);
    if (to->tlb.used != 0 || from->tlb.used != 0)
        to->tlb = from->tlb;
    memcpy((uint8_t *)to + behind, (const uint8_t *)from + behind, sizeof(*to) - behind);
}

void snapshot_take(struct snapshot *s)
{
    struct machine *machine = world->machine;
    s->world = *world;
    s->machine = *machine;
    s->vcpu = *world->processor[0].vcpu;
    for (unsigned i = 0; i < 2; i++) {
        copy_cpu(&s->cpu[i], machine->cpu[i]);
        s->active_count[i] = 0;
        for (const struct active_vmcs *vmcs = machine->cpu[i]->active; vmcs != NULL; vmcs = vmcs->next)
            s->active[i][s->active_count[i]++] = *vmcs;
    }
    for (unsigned i = 0; i < machine->record_count; i++)
        s->record_left[i] = machine->record[i]->left;
    s->page_count = dirty.count;
    for (unsigned i = 0; i < dirty.count; i++)
        memcpy(s->page[i], machine->memory + dirty.address[i], PAGE_SIZE);
}

// The list that the processor had, in the same order.
static void restore_active(struct hw_cpu *cpu, const struct active_vmcs *active, unsigned count)
{
    cpu->active = cpu->current = NULL;
    for (unsigned i = count; i-- > 0;) {
        struct active_vmcs *vmcs = malloc(sizeof(*vmcs));
        *vmcs = active[i];
        vmcs->next = cpu->active;
        cpu->active = vmcs;
        if (vmcs->region == cpu->current_pointer)
            cpu->current = vmcs;
    }
}

void snapshot_restore(const struct snapshot *s)
{
    struct machine *machine = world->machine;
    struct vmcs_record *record[RECORD_LIMIT]; // whose counters go on
    unsigned record_count = machine->record_count;
    memcpy(record, machine->record, sizeof(record));
    *world = s->world;
    *machine = s->machine;
    memcpy(machine->record, record, sizeof(record));
    machine->record_count = record_count;
    for (unsigned i = 0; i < record_count; i++)
        record[i]->left = i < s->machine.record_count ? s->record_left[i] : 0;
    *world->processor[0].vcpu = s->vcpu;
    for (unsigned i = 0; i < 2; i++) {
        vmcs_cache_drop(machine->cpu[i]);
        copy_cpu(machine->cpu[i], &s->cpu[i]);
        restore_active(machine->cpu[i], s->active[i], s->active_count[i]);
    }
    for (unsigned i = 0; i < dirty.count; i++)
        memcpy(machine->memory + dirty.address[i], i < s->page_count ? s->page[i] : dirty.first[i],
               PAGE_SIZE);
}

// --- fingerprint

static void mix(struct fingerprint *f, uint64_t value)
{
    f->low = (f->low ^ value) * 0x9fb21c651e98df25ull;
    f->low ^= f->low >> 29;
    f->high = (f->high + value) * 0xd6e8feb86659fd93ull;
    f->high ^= f->high >> 31;
}

static bool is_information(unsigned field)
{
    return vmcs_encoding_type(vmcs_field_encoding((enum vmcs_field)field)) == VMCS_TYPE_INFO;
}

static void mix_fields(struct fingerprint *f, const uint64_t *value)
{
    for (unsigned field = 0; field < F_COUNT; field++)
        if (!is_information(field))
            mix(f, value[field] + field);
}

static void mix_set(struct fingerprint *f, const struct field_set *set)
{
    for (unsigned i = 0; i < FIELD_SET_WORDS; i++)
        mix(f, set->bits[i]);
}

static uint64_t number_of(const struct nvmx_cpu *cpu)
{
    return cpu == NULL ? 9 : (uint64_t)(cpu - world->l0_cpu);
}

// A VMCS of L0's: what the engine believes, and the data, wherever it is.
static void mix_vmcs(struct fingerprint *f, const struct vmcs *vmcs, bool engine_knows_values)
{
    struct machine *machine = world->machine;
    struct vmcs_data data = {.launched = false}, memory;
    mix(f, number_of(vmcs->active_on) << 2 | (uint64_t)vmcs->launched << 1 | vmcs->constant_written);
    mix(f, vmcs->host_cpu == NULL ? 9 : vmcs->host_cpu->index);
    enum region_state state = vmcs_region_load(machine, vmcs->region.value, &memory);
    bool written_back = state == REGION_ACTIVE;
    if (vmcs->active_on != NULL) {
        const struct active_vmcs *active = vmcs_cache_find(vmcs->active_on->hw, vmcs->region.value);
        if (active == NULL)
            return;
        data = active->data;
    } else if (state == REGION_INITIALIZED) {
        data = memory;
    } else {
        mix(f, 7);
        return;
    }
    mix(f, (uint64_t)data.launched << 1 | written_back);
    mix_fields(f, data.field);
    if (engine_knows_values)
        mix_set(f, &vmcs->written_known);
}

static void mix_engine(struct fingerprint *f, const struct nvmx_vcpu *vcpu)
{
    mix(f, (uint64_t)vcpu->in_l2 << 5 | (uint64_t)vcpu->entry_pending << 4 | (uint64_t)vcpu->nmi_window << 3 |
               (uint64_t)vcpu->nmi_pending << 2 | (uint64_t)vcpu->vmxon << 1 | vcpu->shadow.attached);
    mix(f, vcpu->event.info);
    mix(f, number_of(vcpu->last) << 1 | vcpu->shadow.filled);
    mix(f, vcpu->vmcs12_pointer.value);
    if (vcpu->vmcs12_pointer.value != UINT64_MAX) {
        mix_fields(f, vcpu->vmcs12.field);
        mix_set(f, &vcpu->vmcs12.dirty);
        mix(f, (uint64_t)vcpu->vmcs12.launched << 1 | vcpu->vmcs12.rare_in_vmcs02);
    }
    mix_vmcs(f, &vcpu->vmcs01, true);
    mix_vmcs(f, &vcpu->vmcs02, true);
    mix_vmcs(f, &vcpu->shadow.vmcs, false);
    mix(f, vcpu->learned_msr.count << 8 | vcpu->learned_io.count);
}

// A VMCS of L1's that is not current: its region, as the engine lays it out, without exit information.
static void mix_region(struct fingerprint *f, uint64_t region)
{
    uint64_t words[2 + F_COUNT];
    if (world->processor[0].vcpu->vmcs12_pointer.value == region)
        return;
    memcpy(words, l1_memory(region), sizeof(words));
    mix(f, words[1]);
    mix_fields(f, words + 2);
}

static void mix_specified_vmcs(struct fingerprint *f, const struct vmcs_specified *vmcs)
{
    mix(f, (uint64_t)vmcs->launched << 24 | (uint64_t)vmcs->value << 16 | (uint64_t)vmcs->fs_base << 8 |
               vmcs->fault);
}

struct fingerprint snapshot_fingerprint(const struct specified *specified)
{
    struct fingerprint f = {.low = 1, .high = 2};
    mix(&f, (uint64_t)specified->vmxon << 9 | (uint64_t)specified->in_l2 << 8 | (uint8_t)specified->current);
    for (unsigned i = 0; i < 2; i++) {
        mix_specified_vmcs(&f, &specified->vmcs[i]);
        if (specified->current == (int)i)
            mix_specified_vmcs(&f, &specified->stored[i]);
    }
    mix_engine(&f, world->processor[0].vcpu);
    mix_region(&f, VMCS_A);
    mix_region(&f, VMCS_B);
    for (unsigned i = 0; i < 2; i++) {
        const struct hw_cpu *cpu = world->machine->cpu[i];
        mix(&f, cpu->current_pointer);
        for (const struct active_vmcs *vmcs = cpu->active; vmcs != NULL; vmcs = vmcs->next)
            mix(&f, vmcs->region);
    }
    mix(&f, world->processor[0].cpu->index);
    return f;
}
