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

int parse_region(struct options *options, char *text) {
        struct option_region *region = &options->regions[options->n_regions];
        char *rest = text, *item = next_item(&rest);
        int r;

        if (options->n_regions == PB_REGIONS_MAX)
                return complain("--region: at most %u regions", PB_REGIONS_MAX);
        *region = (struct option_region) {};
        r = parse_size_of("region", "gpa", item ?: "", &region->gpa);
        if (r < 0)
                return r;
        while ((item = next_item(&rest))) {
                const char *value;

                r = split_item("region", item, &value);
                if (r < 0)
                        return r;
                if (strcmp(item, "size") == 0)
                        r = parse_size_of("region", item, value, &region->size);
                else if (strcmp(item, "offset") == 0)
                        r = parse_size_of("region", item, value, &region->offset);
                else if (strcmp(item, "memory") == 0)
                        r = parse_name("region", value, region->memory);
                else if (strcmp(item, "numa-policy") == 0)
                        r = parse_numa_policy("region", value, &region->numa);
                else
                        return complain("--region: unknown key '%s'; known: size, memory, offset, numa-policy", item);
                if (r < 0)
                        return r;
        }
        if (region->size == 0 || !region->memory[0])
                return complain("--region: needs size= and memory=");
        options->n_regions++;
        return 0;
}
