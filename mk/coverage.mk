# SPDX-License-Identifier: MIT
# `make coverage`: which lines and branches of engine/ the host tests reach. The tests are compiled a second time, for
# gcov, into a folder of their own.

COVERAGE_DIR := $(BUILD)/coverage
COVERAGE_CFLAGS := -std=c11 -D_GNU_SOURCE -g -O0 -Iinclude -Ihw/model -Itests/support -Itests/checks $(WARNINGS) -Werror
COVERAGE_ENGINE_SRC := $(wildcard engine/*.c)
COVERAGE_ENGINE_OBJ := $(COVERAGE_ENGINE_SRC:%.c=$(COVERAGE_DIR)/obj/%.o)
COVERAGE_WORLD_OBJ := $(patsubst %.c,$(COVERAGE_DIR)/obj/%.o,$(wildcard hw/model/*.c tests/support/*.c tests/checks/*.c))
COVERAGE_SUITES := $(patsubst tests/scenario/%.c,$(COVERAGE_DIR)/scenario-%,$(wildcard tests/scenario/*.c)) \
	$(patsubst tests/unit/%.c,$(COVERAGE_DIR)/unit-%,$(wildcard tests/unit/*.c))

.PHONY: coverage
coverage: $(COVERAGE_SUITES) $(BUILD)/libnvmx.a ## which lines and branches of engine/ the host tests reach, by file
	@find $(COVERAGE_DIR) -name '*.gcda' -delete
	@for suite in $(COVERAGE_SUITES); do \
		CMOCKA_MESSAGE_OUTPUT=TAP BUILD=$(BUILD) $$suite >$$suite.tap 2>&1 || \
			{ echo "$$suite fails:"; grep -E '^(not ok|#)' $$suite.tap; exit 1; }; \
	done
	@scripts/coverage-table $(COVERAGE_DIR)/obj $(COVERAGE_ENGINE_SRC)

# -O0: a line is a line. Only the engine is counted.
$(COVERAGE_ENGINE_OBJ): COVERAGE_CFLAGS += --coverage
$(COVERAGE_WORLD_OBJ): COVERAGE_CFLAGS += -O1

$(COVERAGE_DIR)/obj/%.o: %.c mk/coverage.mk
	@mkdir -p $(@D)
	@$(CC) $(COVERAGE_CFLAGS) -MMD -MP -c $< -o $@

$(COVERAGE_DIR)/world.o: $(COVERAGE_ENGINE_OBJ) $(COVERAGE_WORLD_OBJ)
	@$(CC) -r -nostdlib -o $@ $^

$(COVERAGE_DIR)/scenario-%: $(COVERAGE_DIR)/obj/tests/scenario/%.o $(COVERAGE_DIR)/world.o
	@$(CC) --coverage -o $@ $^ -lcmocka

$(COVERAGE_DIR)/unit-%: $(COVERAGE_DIR)/obj/tests/unit/%.o $(COVERAGE_DIR)/world.o
	@$(CC) --coverage -o $@ $^ -lcmocka

.PRECIOUS: $(COVERAGE_DIR)/obj/%.o

-include $(COVERAGE_ENGINE_OBJ:.o=.d) $(COVERAGE_WORLD_OBJ:.o=.d)
