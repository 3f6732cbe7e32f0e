# SPDX-License-Identifier: MIT
# Host tests of the L1 loaders (hypervisor/load*.c), under sanitizers. FUZZ_ROUNDS=n makes the noise n times as long.

LOADER_TEST := $(BUILD)/tests/loader
LOADER_TEST_SRC := $(wildcard hypervisor/load*.c hypervisor/load*.S tests/loader/*.c)
LOADER_TEST_OBJ := $(LOADER_TEST_SRC:%=$(BUILD)/tests/loader-objects/%.o)
LOADER_TEST_CFLAGS := -std=c11 -D_DEFAULT_SOURCE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all \
	$(WARNINGS) -Werror -iquote hypervisor -MMD -MP

.PHONY: test-loader test-loader-boot
test-loader: $(LOADER_TEST) ## test the L1 loaders on the host
	@CMOCKA_MESSAGE_OUTPUT=TAP $(LOADER_TEST)

test-loader-boot: $(BUILD)/plastron $(BUILD)/plastron.elf $(BUILD)/tests/bios-map.elf $(LOADER_TEST) ## boot what must be refused, and what asks the BIOS
	@BUILD=$(BUILD) tests/boot/refusals && BUILD=$(BUILD) tests/boot/bios-map/suite

$(BUILD)/tests/loader-objects/%.o: % mk/loader.mk
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(LOADER_TEST_CFLAGS) -c -o $@ $<

$(LOADER_TEST): $(LOADER_TEST_OBJ)
	@echo "  LD      $@"
	@$(CC) $(LOADER_TEST_CFLAGS) -o $@ $^ -lcmocka

-include $(LOADER_TEST_OBJ:.o=.d)

# An L1 that asks the BIOS for the memory map, for tests/boot/bios-map/suite.
BIOS_MAP := $(BUILD)/tests/bios-map.elf
$(BIOS_MAP): $(wildcard tests/boot/bios-map/*.*) mk/loader.mk
	@mkdir -p $(@D)
	@echo "  LD      $@"
	@$(CC) -std=c11 -m32 -march=i686 -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables -O1 \
		$(WARNINGS) -Werror -static -nostdlib -no-pie \
		-Wl,-T,tests/boot/bios-map/kernel.ld,--build-id=none,-z,noexecstack,--no-warn-rwx-segments \
		-o $@ $(filter %.c %.S,$^)
