# SPDX-License-Identifier: MIT
# The demonstration: Debian's Linux with KVM as L1, Debian's Linux again as its L2.

DEMO := $(BUILD)/demo/initrd.img

.PHONY: run demo
run: setup ## install what is missing, build everything, and run the demonstration
	@$(MAKE) --no-print-directory -s -j2 image cli demo
	$(BUILD)/plastron run --demo

demo: ## make the demonstration's L1 and L2 from Debian's packages
	@BUILD=$(BUILD) CC=$(CC) scripts/demo-initramfs
