# SPDX-License-Identifier: MIT
# L0: build/plastron.elf, a multiboot2 image. hypervisor/ + hw/silicon/ + the engine, freestanding.

IMAGE := $(BUILD)/plastron.elf
IMAGE_SRC := $(wildcard hypervisor/*.c hypervisor/*.S hw/silicon/*.c hw/silicon/*.S) $(ENGINE_SRC)
IMAGE_OBJ := $(IMAGE_SRC:%=$(BUILD)/image/%.o)

# -mtune: the plain one clears small structures with REP STOS, which is slow to start.
IMAGE_TARGET_FLAGS := -m64 -mtune=skylake -mcmodel=kernel -mno-red-zone -mgeneral-regs-only -fno-pic -fno-pie
# Link-time optimisation: the engine's VMREADs and VMWRITEs are calls through hw.h, and become instructions.
IMAGE_CFLAGS := -std=c11 -O2 -g -ffreestanding -flto $(IMAGE_TARGET_FLAGS) -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -Wframe-larger-than=4096 \
	$(WARNINGS) -Werror -Iinclude -Ihw -MMD -MP
IMAGE_LDFLAGS := -static -nostdlib -no-pie -Wl,-z,max-page-size=4096,-z,noexecstack,--build-id=none \
	-Wl,--fatal-warnings

.PHONY: image
image: $(IMAGE) ## build the hypervisor, build/plastron.elf

# The compiler makes calls of these functions after it has dropped those that nobody calls; and it would make
# memcpy out of memcpy's own loop.
$(BUILD)/image/hypervisor/string.c.o: IMAGE_CFLAGS += -fno-lto -fno-builtin -fno-tree-loop-distribute-patterns

$(BUILD)/image/%.c.o: %.c mk/image.mk
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(IMAGE_CFLAGS) -c -o $@ $<

$(BUILD)/image/%.S.o: %.S mk/image.mk
	@mkdir -p $(@D)
	@echo "  AS      $<"
	@$(CC) -m64 -MMD -MP -c -o $@ $<

$(IMAGE): $(IMAGE_OBJ) hypervisor/image.lds
	@echo "  LD      $@"
	@$(CC) $(IMAGE_CFLAGS) -w -flto-partition=one $(IMAGE_LDFLAGS) -T hypervisor/image.lds -o $@ $(IMAGE_OBJ)

-include $(IMAGE_OBJ:.o=.d)
