# SPDX-License-Identifier: MIT
# `make mutants`: the engine broken on purpose, one line at a time (tests/mutants/*.mutants), and which test notices.
# The tests are built once more, without sanitizers, with the engine as a shared library: a mutant is another one.

MUTANTS_DIR := $(BUILD)/mutants
MUTANT_CFLAGS := -std=c11 -D_GNU_SOURCE -O1 -fPIC -w -Iinclude -Ihw/model -Itests/support -Itests/checks
MUTANTS_ENGINE_OBJ := $(patsubst %.c,$(MUTANTS_DIR)/obj/%.o,$(wildcard engine/*.c))
MUTANTS_SUPPORT_OBJ := $(patsubst %.c,$(MUTANTS_DIR)/obj/%.o,$(wildcard hw/model/*.c tests/support/*.c tests/checks/*.c))
MUTANTS_SUITES := $(patsubst tests/scenario/%.c,$(MUTANTS_DIR)/scenario-%,$(wildcard tests/scenario/*.c)) \
	$(MUTANTS_DIR)/exhaustive
MUTANTS_TEST_SRC := $(wildcard tests/scenario/*.c tests/exhaustive/*.c)

TEST_SUITES += tests/mutants/suite
TEST_DEPS += mutants-base

# A file of them, or some names: make mutants MUTANTS="shadow vmclear"
MUTANTS ?=

.PHONY: mutants mutants-base
mutants: mutants-base ## break the engine on purpose, line by line, and see that the tests notice
	@CC=$(CC) BUILD=$(BUILD) tests/mutants/run $(MUTANTS)

mutants-base: $(MUTANTS_DIR)/cflags $(MUTANTS_DIR)/libengine.so $(MUTANTS_SUITES)

$(MUTANTS_DIR)/obj/%.o: %.c mk/mutants.mk
	@mkdir -p $(@D)
	@$(CC) $(MUTANT_CFLAGS) -MMD -MP -c $< -o $@

$(MUTANTS_DIR)/cflags: mk/mutants.mk
	@mkdir -p $(@D)
	@echo '$(MUTANT_CFLAGS)' >$@

$(MUTANTS_DIR)/libengine.so: $(MUTANTS_ENGINE_OBJ)
	@$(CC) -shared -o $@ $^

$(MUTANTS_DIR)/libsupport.so: $(MUTANTS_SUPPORT_OBJ)
	@$(CC) -shared -o $@ $^ -lcmocka

# The engine and what is around it need each other: what is missing when one is linked, the other has.
$(MUTANTS_DIR)/scenario-%: $(MUTANTS_DIR)/obj/tests/scenario/%.o $(MUTANTS_DIR)/libengine.so $(MUTANTS_DIR)/libsupport.so
	@$(CC) -o $@ $< -L$(MUTANTS_DIR) -Wl,--no-as-needed -lengine -lsupport -lcmocka

$(MUTANTS_DIR)/exhaustive: $(patsubst %.c,$(MUTANTS_DIR)/obj/%.o,$(wildcard tests/exhaustive/*.c)) $(MUTANTS_DIR)/libengine.so \
		$(MUTANTS_DIR)/libsupport.so
	@$(CC) -o $@ $(filter %.o,$^) -L$(MUTANTS_DIR) -Wl,--no-as-needed -lengine -lsupport -lcmocka

.PRECIOUS: $(MUTANTS_DIR)/obj/%.o

-include $(MUTANTS_ENGINE_OBJ:.o=.d) $(MUTANTS_SUPPORT_OBJ:.o=.d) \
	$(MUTANTS_TEST_SRC:%.c=$(MUTANTS_DIR)/obj/%.d)
