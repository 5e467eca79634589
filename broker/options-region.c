/* SPDX-License-Identifier: MIT */
#include "broker/options-region.h"

#include <string.h>

#include "broker/options-value.h"
#include "broker/options.h"

int parse_numa_policy(const char *option, const char *text, struct numa_policy *ret) {
        const char *error;

        if (numa_policy_parse(text, ret, &error) < 0)
                return complain("--%s: numa-policy '%s': %s", option, text, error);
        return 0;
}

static int take_item(void *data, const char *key, const char *value) {
        struct option_region *region = data;

        if (strcmp(key, "size") == 0)
                return parse_size_of("region", key, value, &region->size);
        if (strcmp(key, "offset") == 0)
                return parse_size_of("region", key, value, &region->offset);
        if (strcmp(key, "memory") == 0)
                return parse_name("region", value, region->memory);
        if (strcmp(key, "numa-policy") == 0)
                return parse_numa_policy("region", value, &region->numa);
        return complain("--region: unknown key '%s'; known: size, memory, offset, numa-policy", key);
}

int parse_region(struct options *options, char *text) {
        struct option_region *region = &options->regions[options->n_regions];
        char *rest = text, *item = next_item(&rest);
        int r;

        if (options->n_regions == PB_REGIONS_MAX)
                return complain("--region: at most %u regions", PB_REGIONS_MAX);
        *region = (struct option_region) {};
        r = parse_size_of("region", "gpa", item ?: "", &region->gpa);
        if (r == 0)
                r = parse_items("region", rest, take_item, region);
        if (r < 0)
                return r;
        if (region->size == 0 || !region->memory[0])
                return complain("--region: needs size= and memory=");
        options->n_regions++;
        return 0;
}
