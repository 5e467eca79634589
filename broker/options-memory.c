/* SPDX-License-Identifier: MIT */
#include "broker/options-memory.h"

#include <errno.h>
#include <string.h>

#include "broker/options-region.h"
#include "broker/options-value.h"
#include "broker/options.h"
#include "common/macro.h"
#include "protocol/presence.h"

int parse_backing(const char *option, const char *text, uint64_t *ret) {
        if (options_parse_size(text, ret) == 0 && (*ret == 2ull << 20 || *ret == 1ull << 30))
                return 0;
        return complain("--%s: '%s': huge pages are 2M or 1G", option, text);
}

static int parse_layer(struct option_memory *memory, const char *value) {
        if (memory->n_layers == ELEMENTS(memory->layers))
                return complain("--memory=%s: at most %zu layers", memory->name, ELEMENTS(memory->layers));
        memory->layers[memory->n_layers] = strdup(value);
        if (!memory->layers[memory->n_layers])
                return -ENOMEM;
        memory->n_layers++;
        return 0;
}

static int take_item(void *data, const char *key, const char *value) {
        struct option_memory *memory = data;

        if (strcmp(key, "size") == 0)
                return parse_size_of("memory", key, value, &memory->size);
        if (strcmp(key, "source") == 0)
                return parse_text(&memory->source, value);
        if (strcmp(key, "layer") == 0)
                return parse_layer(memory, value);
        if (strcmp(key, "checksums") == 0)
                return parse_text(&memory->checksums, value);
        if (strcmp(key, "source-offset") == 0)
                return parse_size_of("memory", key, value, &memory->source_offset);
        if (strcmp(key, "plugged") == 0)
                return parse_switch("memory: plugged", value, &memory->plugged);
        if (strcmp(key, "huge") == 0)
                return parse_backing("memory", value, &memory->backing_size);
        if (strcmp(key, "numa-policy") == 0)
                return parse_numa_policy("memory", value, &memory->numa);
        if (strcmp(key, "backing") == 0 && strcmp(value, "guest_memfd") == 0)
                return complain("--memory: guest_memfd is refused: vCPU faults on it bypass every mapping, and "
                                "UFFDIO_REGISTER on it is EINVAL on today's kernels, so an absent page would read as "
                                "zeros; leave 'backing' out");
        return complain("--memory: unknown key '%s'; known: size, source, layer, source-offset, checksums, huge, "
                        "numa-policy, plugged", key);
}

int parse_memory(struct options *options, char *text) {
        struct option_memory *memory = &options->memories[options->n_memories];
        char *rest = text, *item = next_item(&rest);
        int r;

        if (options->n_memories == PB_MEMORIES_MAX)
                return complain("--memory: at most %u memories", PB_MEMORIES_MAX);
        *memory = (struct option_memory) { .plugged = true };
        r = parse_name("memory", item ?: "", memory->name);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < options->n_memories; i++)
                if (strcmp(options->memories[i].name, memory->name) == 0)
                        return complain("--memory: two memories are called '%s'", memory->name);
        options->n_memories++;
        r = parse_items("memory", rest, take_item, memory);
        if (r < 0)
                return r;
        if (!memory->source && memory->n_layers > 0)
                return complain("--memory=%s: a layer= needs a source= to lie on", memory->name);
        if (!memory->source && memory->size == 0)
                return complain("--memory=%s: needs source=, or a size= of more than 0", memory->name);
        if (memory->checksums && !memory->source)
                return complain("--memory=%s: checksums without a source", memory->name);
        if (!is_aligned(memory->source_offset, PB_PAGE_BYTES))
                return complain("--memory=%s: source-offset must be a multiple of 4096", memory->name);
        return 0;
}
