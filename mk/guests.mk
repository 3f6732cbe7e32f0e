# SPDX-License-Identifier: MIT
# Small bare-metal L1s of ours, each with its L2s: build/guests/NAME.elf, a Multiboot 1 kernel.

GUESTS := first bench explain checks abort hostile
GUEST_CC ?= $(CC)
GUEST_CFLAGS := -std=gnu11 -O2 -g0 -m64 -ffreestanding -fno-builtin -fno-pic -fno-stack-protector -fcf-protection=none \
	-fno-asynchronous-unwind-tables -fno-strict-aliasing -mno-red-zone -mgeneral-regs-only \
	$(WARNINGS) -Wmissing-prototypes -Werror -Iinclude -Iguests/common -MMD -MP

GUEST_MODE := -m64

GUEST_OBJECT = $(patsubst guests/%,$(BUILD)/guests/objects/%.o,$(1))
GUEST_COMMON := $(call GUEST_OBJECT,$(wildcard guests/common/*.c guests/common/*.S))

# An L1 in 32-bit mode shares nothing with the others.
FIRST32_CFLAGS := -std=gnu11 -O2 -g0 -m32 -march=i686 -ffreestanding -fno-builtin -fno-pic -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -mgeneral-regs-only \
	$(WARNINGS) -Wmissing-prototypes -Werror -Iinclude -MMD -MP
FIRST32_OBJECTS := $(call GUEST_OBJECT,$(wildcard guests/first32/*.c guests/first32/*.S))
$(FIRST32_OBJECTS): GUEST_CFLAGS := $(FIRST32_CFLAGS)
$(FIRST32_OBJECTS): GUEST_MODE := -m32

$(BUILD)/guests/first32.elf: $(FIRST32_OBJECTS) guests/common/guest.ld
	@echo "  LD      $@"
	@$(LD) -m elf_i386 -z max-page-size=0x1000 -z noexecstack -T guests/common/guest.ld -o $@ $(filter %.o,$^)

.PHONY: guests
guests: $(GUESTS:%=$(BUILD)/guests/%.elf) $(BUILD)/guests/first32.elf ## build our own small L1s

.PHONY: bench
bench: $(BUILD)/guests/bench.elf $(BUILD)/plastron $(BUILD)/plastron.elf ## what the operations of an L1 cost, bare and under Plastron
	@BUILD=$(BUILD) guests/bench/table

$(BUILD)/guests/objects/%.c.o: guests/%.c
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(BUILD)/guests/objects/%.S.o: guests/%.S
	@mkdir -p $(@D)
	@echo "  AS      $<"
	@$(GUEST_CC) $(GUEST_MODE) -Iguests/common -MMD -MP -c -o $@ $<

# GRUB's Multiboot 1 loader and L0's take 32-bit ELF: the 64-bit code travels in it.
define guest_rules
$(BUILD)/guests/$(1).elf: $(call GUEST_OBJECT,$(wildcard guests/$(1)/*.c guests/$(1)/*.S)) $(GUEST_COMMON) guests/common/guest.ld
	@echo "  LD      $$@"
	@$(LD) -m elf_x86_64 -z max-page-size=0x1000 -z noexecstack -T guests/common/guest.ld -o $$@.64 $$(filter %.o,$$^)
	@objcopy -O elf32-i386 $$@.64 $$@
endef
$(foreach guest,$(GUESTS),$(eval $(call guest_rules,$(guest))))

# guests/checks has two judges: the processor, and the engine's own table.
CHECKS_SHARED := $(addprefix $(BUILD)/guests/objects/shared/,$(addsuffix .o,tests/checks/pairs.c tests/checks/border.c \
	engine/check.c engine/caps.c engine/field.c))
$(BUILD)/guests/objects/shared/%.c.o: %.c
	@mkdir -p $(@D)
	@echo "  CC      $< (guests)"
	@$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<
$(BUILD)/guests/objects/checks/%: GUEST_CFLAGS += -Itests/checks
$(BUILD)/guests/objects/bench/%: GUEST_CFLAGS += -Itests/checks
$(BUILD)/guests/checks.elf: $(CHECKS_SHARED)
$(BUILD)/guests/bench.elf: $(CHECKS_SHARED) $(call GUEST_OBJECT,guests/checks/judge.c guests/checks/judge_table.c)

-include $(shell find $(BUILD)/guests/objects -name '*.d' 2>/dev/null)
