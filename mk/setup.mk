# SPDX-License-Identifier: MIT
# What the machine must have before anything is built. Costs well under a second when all is there.

.PHONY: setup setup-lint
setup: ## install what is missing, and get Bochs 3.0 (nothing to do when all is there)
	@BUILD=$(BUILD) scripts/setup

setup-lint:
	@BUILD=$(BUILD) scripts/setup --lint
