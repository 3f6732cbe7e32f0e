# SPDX-License-Identifier: MIT
# Every interleaving of the life-cycle operations, breadth first (tests/exhaustive): to a small depth with sanitizers,
# in `make test`; as deep as the time allows without, `make explore-exhaustive`.

EXHAUSTIVE_DIR := $(BUILD)/exhaustive
EXHAUSTIVE_SRC := $(wildcard tests/exhaustive/*.c)
EXHAUSTIVE_FAST_CFLAGS := -std=c11 -D_GNU_SOURCE -O2 -g -Iinclude -Ihw/model -Itests/support -Itests/checks $(WARNINGS) -Werror
EXHAUSTIVE_FAST_OBJ := $(patsubst %.c,$(EXHAUSTIVE_DIR)/obj/%.o,$(EXHAUSTIVE_SRC) \
	$(wildcard engine/*.c hw/model/*.c tests/support/*.c tests/checks/*.c))

# Operations in a row, and seconds: it stops at whichever comes first.
DEPTH ?= 200
SECONDS ?= 60

TEST_SUITES += $(BUILD)/tests/exhaustive
TEST_DEPS += $(BUILD)/tests/exhaustive

.PHONY: explore-exhaustive
explore-exhaustive: $(EXHAUSTIVE_DIR)/exhaustive ## every interleaving of the life-cycle operations, for a minute (SECONDS=, DEPTH=)
	@$< $(DEPTH) $(SECONDS)

$(EXHAUSTIVE_DIR)/exhaustive: $(EXHAUSTIVE_FAST_OBJ)
	@$(CC) -o $@ $^ -lcmocka

$(EXHAUSTIVE_DIR)/obj/%.o: %.c mk/exhaustive.mk
	@mkdir -p $(@D)
	@$(CC) $(EXHAUSTIVE_FAST_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/tests/exhaustive: $(EXHAUSTIVE_SRC:%.c=$(BUILD)/tests/obj/%.o) $(BUILD)/tests/world.o
	@$(CC) $(HOST_TEST_CFLAGS) -o $@ $^ -lcmocka

-include $(EXHAUSTIVE_FAST_OBJ:.o=.d) $(EXHAUSTIVE_SRC:%.c=$(BUILD)/tests/obj/%.d)
