# SPDX-License-Identifier: MIT
# Documentation that is made from tables. That it is up to date is a test of tests/unit/controls.c and l1_view.c.

.PHONY: docs
docs: $(BUILD)/tests/unit-controls $(BUILD)/tests/unit-l1_view ## write docs/controls.md and docs/l1-view.md from their tables
	@$(BUILD)/tests/unit-controls --print >docs/controls.md
	@$(BUILD)/tests/unit-l1_view --print >docs/l1-view.md
