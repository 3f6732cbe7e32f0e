# SPDX-License-Identifier: MIT
# The VM-entry checks: random VMCSs near the border before the engine's table and the model; the pairs on Bochs.

TEST_SUITES += tests/boot/checks

EXPLORE_CHECKS_ROUNDS ?= 150000 # on each of seven processors
EXPLORE_CHECKS_SEED ?= $(shell date +%s)

.PHONY: explore-checks
explore-checks: $(BUILD)/tests/unit-checks_border ## more than a million random VMCSs, the engine's checks against the model's
	@echo "seed $(EXPLORE_CHECKS_SEED)"
	@PLASTRON_ROUNDS=$(EXPLORE_CHECKS_ROUNDS) PLASTRON_SEED=$(EXPLORE_CHECKS_SEED) $<
