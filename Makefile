# Plastron: the layer under your hypervisor. `make help` lists the targets.
# Each room of the house has its own fragment in mk/.

BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wpointer-arith -Wcast-align

include $(sort $(wildcard mk/*.mk))

.PHONY: help clean
help: ## list the targets
	@sed -nE 's/^([a-z][a-z-]*):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | sort | expand -t 24

clean: ## remove everything that was built (keeps the private Bochs)
	rm -rf $(filter-out $(BUILD)/bochs $(BUILD)/apt,$(wildcard $(BUILD)/*))
