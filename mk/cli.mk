# The host command `plastron`, and what its tests need.

CLI_SOURCES := $(wildcard cli/*.c)
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(BUILD)/%.o)
CLI_CFLAGS := -std=c11 -D_GNU_SOURCE -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2 $(WARNINGS) -Werror

.PHONY: cli
cli: $(BUILD)/plastron ## build the host command, build/plastron

$(BUILD)/plastron: $(CLI_OBJECTS)
	$(CC) $(CLI_CFLAGS) -o $@ $^

$(BUILD)/cli/%.o: cli/%.c mk/cli.mk
	@mkdir -p $(@D)
	$(CC) $(CLI_CFLAGS) -MMD -MP -c -o $@ $<

-include $(CLI_OBJECTS:.o=.d)

# A Multiboot kernel that does what its command line says: tests/cli/puppet.c.
$(BUILD)/tests/cli/puppet.elf: tests/cli/puppet.c tests/cli/puppet.ld mk/cli.mk
	@mkdir -p $(@D)
	$(CC) -std=c11 -m32 -march=i686 -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables -O1 \
	    $(WARNINGS) -Werror -static -nostdlib -no-pie \
	    -Wl,-T,tests/cli/puppet.ld,--build-id=none,-z,noexecstack,--no-warn-rwx-segments -o $@ $<

.PHONY: test-cli
test-cli: $(BUILD)/plastron $(BUILD)/plastron.elf $(BUILD)/tests/cli/puppet.elf ## test the command alone (TAP)
	BUILD=$(BUILD) tests/cli/suite
