# SPDX-License-Identifier: MIT
# Documentation that is made from a table. That it is up to date is a test of tests/unit/controls.c.

.PHONY: docs
docs: $(BUILD)/tests/unit-controls ## write docs/controls.md from include/nvmx/controls.def
	@$< --print >docs/controls.md
