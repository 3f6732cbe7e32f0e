# libnvmx: the engine, freestanding. The image compiles the same sources with its own flags.
ENGINE_SRC := $(wildcard engine/*.c)
ENGINE_OBJ := $(ENGINE_SRC:%.c=$(BUILD)/%.o)
# -mno-red-zone: where it is linked into, an interrupt or NMI may use the stack that the engine is on.
FREESTANDING := -std=c11 -ffreestanding -mno-red-zone -fno-stack-protector -fno-common -mgeneral-regs-only -O2 -g

$(BUILD)/engine/%.o: engine/%.c mk/engine.mk
	@mkdir -p $(@D)
	@$(CC) $(FREESTANDING) $(WARNINGS) -Werror -Iinclude -MMD -c $< -o $@

$(BUILD)/libnvmx.a: $(ENGINE_OBJ)
	@rm -f $@
	@ar rcs $@ $^

.PHONY: engine
engine: $(BUILD)/libnvmx.a ## build the engine as a library, build/libnvmx.a

-include $(ENGINE_OBJ:.o=.d)
