# SPDX-License-Identifier: MIT
# `make lint`: gcc and clang with warnings as errors, each header alone, clang-tidy, clang-format. Each file that is
# fine leaves a stamp, so that a second run looks only at what has changed.

CLANG ?= clang
CLANG_TIDY ?= clang-tidy
CLANG_FORMAT ?= clang-format
LINT := $(BUILD)/lint
# What clang says and gcc does not, of casts that x86 has no objection to, and of "text" + condition.
LINT_CLANG_WARNINGS := $(WARNINGS) -Wno-cast-align -Wno-string-plus-int

LINT_SRC := $(sort $(shell find engine hypervisor hw cli guests tests -name '*.c'))
LINT_HDR := $(sort $(shell find include engine hypervisor hw cli guests tests -name '*.h'))
LINT_TABLES := $(sort $(shell find include engine hypervisor hw cli guests tests -name '*.def'))

# How the code of each room is compiled, as far as warnings go: a room's name is the start of its path.
LINT_L0 := -std=c11 -ffreestanding -mgeneral-regs-only -mno-red-zone -mcmodel=kernel -fno-pic -Iinclude -Ihw
LINT_GUEST := -std=gnu11 -ffreestanding -mgeneral-regs-only -mno-red-zone -Iinclude -Iguests/common -Itests/checks
LINT_GUEST_32 := -std=gnu11 -m32 -ffreestanding -mgeneral-regs-only -Iinclude -Iguests/common
LINT_TEST := -std=c11 -D_GNU_SOURCE -Iinclude -Ihw/model -Itests/support -Itests/explore -Itests/checks -iquote hypervisor
LINT_TEXTS := -std=c11 -D_GNU_SOURCE -Iinclude -iquote engine -iquote cli
LINT_32_BIT := -std=c11 -m32 -ffreestanding
LINT_HOST := -std=c11 -D_GNU_SOURCE -Iinclude -iquote engine

lint_flags = $(firstword \
	$(if $(filter tests/texts/%,$1),LINT_TEXTS) \
	$(if $(filter tests/cli/% tests/boot/%,$1),LINT_32_BIT) \
	$(if $(filter guests/demo/% cli/%,$1),LINT_HOST) \
	$(if $(filter guests/first32/%,$1),LINT_GUEST_32) \
	$(if $(filter guests/%,$1),LINT_GUEST) \
	$(if $(filter tests/% hw/model/%,$1),LINT_TEST) \
	LINT_L0)

# The analyzer follows every path, which takes four fifths of the time: it does so in what the product is made of.
lint_tidy_flags = $(if $(filter guests/% tests/%,$1),--checks=-clang-analyzer-*)

LINT_STAMPS := $(LINT_SRC:%=$(LINT)/%.ok) $(LINT_HDR:%=$(LINT)/%.ok)

.PHONY: lint lint-files lint-format lint-scripts
lint: setup-lint ## check the sources: gcc, clang, clang-tidy, clang-format, all warnings are errors
	@$(MAKE) --no-print-directory -j2 -k --output-sync=target lint-format lint-scripts lint-files
	@echo "lint: $(words $(LINT_SRC)) sources and $(words $(LINT_HDR)) headers are fine"

lint-format:
	@$(CLANG_FORMAT) --dry-run -Werror $(LINT_SRC) $(LINT_HDR)

lint-scripts:
	@for script in scripts/* .ci/run $$(find tests guests -type f -perm -u+x); do \
		case $$(head -c 12 $$script) in '#!/bin/bash'*|'#!/bin/sh'*) bash -n $$script || exit 1 ;; esac; \
	done

lint-files: $(LINT_STAMPS)

# A source: both compilers, then clang-tidy.
$(LINT)/%.c.ok: %.c $(LINT_HDR) $(LINT_TABLES) .clang-tidy mk/lint.mk
	@mkdir -p $(@D)
	@echo "  LINT    $<"
	@$(CC) -fsyntax-only $($(call lint_flags,$<)) $(WARNINGS) -Werror $<
	@$(CLANG) -fsyntax-only $($(call lint_flags,$<)) $(LINT_CLANG_WARNINGS) -Werror $<
	@$(CLANG_TIDY) --quiet $(call lint_tidy_flags,$<) $< -- $($(call lint_flags,$<)) $(LINT_CLANG_WARNINGS) 2>$@.err || \
		{ grep -v 'warnings generated' $@.err; exit 1; }
	@mv $@.err $@

# A header compiles alone, as the first and only thing that a source includes.
$(LINT)/%.h.ok: %.h $(LINT_HDR) $(LINT_TABLES) mk/lint.mk
	@mkdir -p $(@D)
	@echo '#include "$<"' | $(CC) -fsyntax-only $($(call lint_flags,$<)) $(WARNINGS) -Werror -I. -x c -
	@echo '#include "$<"' | $(CLANG) -fsyntax-only $($(call lint_flags,$<)) $(LINT_CLANG_WARNINGS) -Werror -I. -x c -
	@touch $@
