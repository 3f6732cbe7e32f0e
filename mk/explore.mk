# SPDX-License-Identifier: MIT
# Random exploration of the engine on the software processor: tests/explore. Without sanitizers, for speed.

EXPLORE_ALL := $(wildcard tests/explore/*.c)
EXPLORE_LIB := $(filter-out tests/explore/main.c tests/explore/suite.c,$(EXPLORE_ALL))
EXPLORE_SRC := $(filter-out tests/explore/suite.c,$(EXPLORE_ALL))
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

# The same under sanitizers: a suite of `make test`; and scripts that failed once (tests/scenario/found.c).
EXPLORE_SUITE := $(BUILD)/tests/explore-suite
EXPLORE_LIB_SANITIZED := $(EXPLORE_LIB:%.c=$(BUILD)/tests/obj/%.o)
TEST_SUITES += $(EXPLORE_SUITE)
TEST_DEPS += $(EXPLORE_SUITE)

$(BUILD)/tests/obj/tests/explore/%.o $(BUILD)/tests/obj/tests/scenario/found.o: HOST_TEST_CFLAGS += -Itests/explore
$(EXPLORE_SUITE): $(BUILD)/tests/obj/tests/explore/suite.o $(EXPLORE_LIB_SANITIZED) $(BUILD)/tests/world.o
	@$(CC) $(HOST_TEST_CFLAGS) -o $@ $^ -lcmocka

$(BUILD)/tests/scenario-found: $(EXPLORE_LIB_SANITIZED)

-include $(EXPLORE_OBJ:.o=.d) $(EXPLORE_ALL:%.c=$(BUILD)/tests/obj/%.d)
