# The host command `plastron`, and what its tests need.

CLI_SOURCES := $(wildcard cli/*.c)
# The engine's tables and what reads them: the linker takes what the command needs, which must not be anything that
# needs a processor. check.c is compiled as a part of cli/rules.c.
CLI_ENGINE := $(filter-out engine/check.c,$(wildcard engine/*.c))
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(BUILD)/%.o) $(CLI_ENGINE:%.c=$(BUILD)/cli/%.o)
CLI_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude -iquote engine -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2 $(WARNINGS) -Werror

.PHONY: cli
cli: $(BUILD)/plastron ## build the host command, build/plastron

$(BUILD)/plastron: $(CLI_OBJECTS)
	$(CC) $(CLI_CFLAGS) -Wl,--gc-sections -o $@ $^ -ljson-c

$(BUILD)/cli/engine/%.o: engine/%.c mk/cli.mk
	@mkdir -p $(@D)
	$(CC) $(CLI_CFLAGS) -ffunction-sections -fdata-sections -MMD -MP -c -o $@ $<

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

# What reads texts that anybody may have written, under the sanitizers: tests/texts/garbled.c.
TEXTS_TEST := $(BUILD)/tests/texts/run
TEXTS_TEST_OBJECTS := $(patsubst %,$(BUILD)/tests/texts/%.o,bits caps_facts caps_input caps_models causes judge judge_json \
	judge_text names rules say source vmcs_dump vmcs_own vmcs_text garbled) $(CLI_ENGINE:%.c=$(BUILD)/cli/%.o)
TEXTS_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude -iquote engine -iquote cli -O1 -g -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=all $(WARNINGS) -Werror

$(TEXTS_TEST): $(TEXTS_TEST_OBJECTS)
	@$(CC) $(TEXTS_CFLAGS) -Wl,--gc-sections -o $@ $^ -ljson-c

$(BUILD)/tests/texts/%.o: cli/%.c mk/cli.mk
	@mkdir -p $(@D)
	@$(CC) $(TEXTS_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/texts/%.o: tests/texts/%.c mk/cli.mk
	@mkdir -p $(@D)
	@$(CC) $(TEXTS_CFLAGS) -MMD -MP -c -o $@ $<

-include $(TEXTS_TEST_OBJECTS:.o=.d)

TEST_SUITES += tests/cli/check-suite $(TEXTS_TEST)
TEST_DEPS += $(TEXTS_TEST)
