# SPDX-License-Identifier: MIT
# Random exploration of the engine on the software processor: tests/explore. Without sanitizers, for speed.

EXPLORE_ALL := $(wildcard tests/explore/*.c)
EXPLORE_LIB := $(filter-out $(addprefix tests/explore/,main.c suite.c found.c),$(EXPLORE_ALL))
EXPLORE_SRC := $(EXPLORE_LIB) tests/explore/main.c
EXPLORE_CFLAGS := -std=c11 -D_GNU_SOURCE -g -O2 $(EXPLORE_LTO) -Iinclude -Ihw/model -Itests/support -Itests/explore $(WARNINGS) -Werror
EXPLORE_OBJ := $(patsubst %.c,$(BUILD)/explore/%.o,$(wildcard engine/*.c hw/model/*.c tests/support/*.c) $(EXPLORE_SRC))

EXPLORE_LTO ?= -flto=auto
STEPS ?= 10000000
SEED ?= 1

.PHONY: explore
explore: $(BUILD)/explore/explore ## random operations, bare and under the engine, compared: STEPS=n SEED=s
	@$< $(STEPS) $(SEED)

$(BUILD)/explore/%.o: %.c mk/explore.mk
	@mkdir -p $(@D)
	@$(CC) $(EXPLORE_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/explore/explore: $(EXPLORE_OBJ)
	@$(CC) $(EXPLORE_CFLAGS) -o $@ $^ -lcmocka

# The same under sanitizers, in `make test`: fixed seeds (suite.c), and scripts that failed once (found.c).
EXPLORE_SUITES := $(BUILD)/tests/explore-suite $(BUILD)/tests/explore-found
TEST_SUITES += $(EXPLORE_SUITES)
TEST_DEPS += $(EXPLORE_SUITES)

$(BUILD)/tests/obj/tests/explore/%.o: HOST_TEST_CFLAGS += -Itests/explore
$(EXPLORE_SUITES): $(BUILD)/tests/explore-%: $(BUILD)/tests/obj/tests/explore/%.o \
		$(EXPLORE_LIB:%.c=$(BUILD)/tests/obj/%.o) $(BUILD)/tests/world.o
	@$(CC) $(HOST_TEST_CFLAGS) -o $@ $^ -lcmocka

-include $(EXPLORE_OBJ:.o=.d) $(EXPLORE_ALL:%.c=$(BUILD)/tests/obj/%.d)
