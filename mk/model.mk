# SPDX-License-Identifier: MIT
# The software processor (hw/model), and the host tests that run the engine on it: ASan, UBSan, milliseconds.
# Each file of tests/scenario and tests/unit is a suite of its own.

MODEL_SRC := $(wildcard hw/model/*.c)
SUPPORT_SRC := $(wildcard tests/support/*.c tests/checks/*.c)
SCENARIO_SRC := $(wildcard tests/scenario/*.c)
UNIT_SRC := $(wildcard tests/unit/*.c)
HOST_TEST_DIR := $(BUILD)/tests

HOST_TEST_CFLAGS := -std=c11 -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer \
	-fsanitize=address,undefined -fno-sanitize-recover=all \
	-Iinclude -Ihw/model -Itests/support -Itests/checks $(WARNINGS) -Werror

HOST_TEST_LIB_OBJ := $(patsubst %.c,$(HOST_TEST_DIR)/obj/%.o,$(ENGINE_SRC) $(MODEL_SRC) $(SUPPORT_SRC))
HOST_SUITES := $(patsubst tests/scenario/%.c,$(HOST_TEST_DIR)/scenario-%,$(SCENARIO_SRC)) \
	$(patsubst tests/unit/%.c,$(HOST_TEST_DIR)/unit-%,$(UNIT_SRC))

TEST_SUITES += $(HOST_SUITES)
TEST_DEPS += $(HOST_SUITES)

$(HOST_TEST_DIR)/obj/%.o: %.c
	@mkdir -p $(@D)
	@$(CC) $(HOST_TEST_CFLAGS) -MMD -c $< -o $@

# Linked in as one object (not an archive), so that two definitions of one name are noticed.
$(HOST_TEST_DIR)/world.o: $(HOST_TEST_LIB_OBJ)
	@$(CC) -r -nostdlib -o $@ $^

$(HOST_TEST_DIR)/scenario-%: $(HOST_TEST_DIR)/obj/tests/scenario/%.o $(HOST_TEST_DIR)/world.o
	@$(CC) $(HOST_TEST_CFLAGS) -o $@ $^ -lcmocka

$(HOST_TEST_DIR)/unit-%: $(HOST_TEST_DIR)/obj/tests/unit/%.o $(HOST_TEST_DIR)/world.o
	@$(CC) $(HOST_TEST_CFLAGS) -o $@ $(filter %.o,$^) -lcmocka

$(HOST_TEST_DIR)/unit-symbols: $(BUILD)/libnvmx.a # it looks at that library
$(HOST_TEST_DIR)/unit-acpi_sleep: $(HOST_TEST_DIR)/obj/hypervisor/acpi_sleep.o
$(HOST_TEST_DIR)/unit-mtrr_l1: $(HOST_TEST_DIR)/obj/hypervisor/mtrr_l1.o
$(HOST_TEST_DIR)/obj/hypervisor/%.o: HOST_TEST_CFLAGS += -Ihw

.PRECIOUS: $(HOST_TEST_DIR)/obj/%.o

.PHONY: check host-suites
host-suites: $(HOST_SUITES)

check: $(HOST_SUITES) ## run the host tests only: the engine on the software processor (milliseconds)
	@failed=0; for suite in $(HOST_SUITES); do \
		CMOCKA_MESSAGE_OUTPUT=TAP BUILD=$(BUILD) $$suite >$$suite.tap 2>&1 || failed=$$((failed + 1)); \
		grep -E '^(not ok|#)' $$suite.tap | grep -vE '^# (ok|Test|$$)'; \
		grep -qE '^(ok|not ok)' $$suite.tap || { echo "$$suite died:"; tail -20 $$suite.tap; }; \
	done; \
	cat $(addsuffix .tap,$(HOST_SUITES)) | awk '/^ok/{p++} /^not ok/{f++} END{printf "%d passed, %d failed\n", p, f}'; \
	[ $$failed -eq 0 ]

-include $(HOST_TEST_LIB_OBJ:.o=.d) $(patsubst %.c,$(HOST_TEST_DIR)/obj/%.d,$(SCENARIO_SRC) $(UNIT_SRC))
