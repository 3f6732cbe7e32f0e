# SPDX-License-Identifier: MIT
# `make test`: every suite. The fragments append their suites to TEST_SUITES (executables that print TAP) and what the
# suites need to TEST_DEPS. The quick ones on the host come first, then those that boot an emulated machine.

TEST_SUITES += scripts/test-run-tests $(LOADER_TEST) tests/cli/suite
TEST_SUITES += $(addprefix tests/,boot/first boot/explain boot/demo boot/refusals boot/abort boot/bios-map/suite)
TEST_DEPS += $(LOADER_TEST) $(BIOS_MAP) $(BUILD)/tests/cli/puppet.elf cli image guests demo

# One suite, or some: make test SUITES="tests/boot/demo"
SUITES ?= $(TEST_SUITES)

.PHONY: test test-run
test: setup ## install what is missing, build everything, and run all tests
	@echo "building"
	@$(MAKE) --no-print-directory -s -j2 $(TEST_DEPS)
	@$(MAKE) --no-print-directory test-run

test-run: # as test, on what is built
	@BUILD=$(BUILD) scripts/run-tests $(SUITES)
