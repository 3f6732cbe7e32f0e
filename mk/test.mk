# SPDX-License-Identifier: MIT
# `make test`: every suite. The fragments append their suites to TEST_SUITES (executables that print TAP) and what the
# suites need to TEST_DEPS. The quick ones on the host come first, then those that boot an emulated machine.

TEST_SUITES += scripts/test-run-tests $(LOADER_TEST) tests/cli/suite
TEST_SUITES += $(addprefix tests/,boot/first boot/explain boot/demo boot/refusals boot/abort boot/hostile boot/bios-map/suite)
TEST_DEPS += $(LOADER_TEST) $(BIOS_MAP) $(BUILD)/tests/cli/puppet.elf cli image guests demo

# One suite, or some: make test SUITES="tests/boot/demo"
SUITES ?= $(TEST_SUITES)

.PHONY: test test-run test-hostile fuzz-boot
test: setup ## install what is missing, build everything, and run all tests
	@echo "building"
	@$(MAKE) --no-print-directory -s -j2 $(TEST_DEPS)
	@$(MAKE) --no-print-directory test-run

test-hostile: image cli guests ## guests/hostile on every model and number of processors (minutes)
	@HOSTILE=all BUILD=$(BUILD) tests/boot/hostile

fuzz-boot: image cli guests ## random instructions, MSRs and ports in L1 and L2: SEED= COUNT= SECONDS= CPU= SMP=
	@SECONDS_="$(if $(filter command,$(firstword $(origin SECONDS))),$(SECONDS))" SEED="$(SEED)" COUNT="$(COUNT)" CPU="$(CPU)" SMP="$(SMP)" BUILD=$(BUILD) scripts/fuzz-boot

test-run: # as test, on what is built
	@BUILD=$(BUILD) scripts/run-tests $(SUITES)
