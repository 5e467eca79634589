/* SPDX-License-Identifier: MIT */
/*
 * Layers are files with holes: what a difference does not have is a hole in it, and the layer below shows.
 *
 * The unit is a page. Those who write differences write whole dirty pages; so a page of which a layer has any byte is that
 * layer's, and holes inside it are zeros of that layer (somebody has dug them, or the file system's blocks are smaller).
 * Merging bytes would bring back what the guest had overwritten with zeros. The other way round, a file system whose holes
 * are coarser than a page calls neighbours data that nobody wrote, which would hide the layer below: refused.
 */
#include "broker/source-layers.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/macro.h"
#include "protocol/presence.h"

/* From `offset` on, which is a page's: which part has it, and up to where at least? */
static struct source *find(struct source *source, uint64_t offset, uint64_t length, uint64_t *ret_length) {
        for (unsigned i = source->n_parts; i-- > 1;) {
                struct source *layer = source->parts[i];
                uint64_t run;
                bool data;

                if (offset >= layer->size)
                        continue;
                if (layer->ops->extent(layer, offset, min_u64(length, layer->size - offset), &data, &run) < 0)
                        data = true, run = PB_PAGE_BYTES;
                if (data || run < min_u64(length, PB_PAGE_BYTES)) {
                        *ret_length = min_u64(length, data ? align_up(run, PB_PAGE_BYTES) : PB_PAGE_BYTES);
                        return layer;
                }
                /* Past its end there is nothing of it. */
                if (offset + run < layer->size)
                        length = min_u64(length, align_down(run, PB_PAGE_BYTES));
        }
        *ret_length = length;
        return source->parts[0];
}

static int layers_extent(struct source *source, uint64_t offset, uint64_t length, bool *ret_data, uint64_t *ret_length) {
        struct source *part = find(source, offset, length, &length);

        if (part == source->parts[0])
                return part->ops->extent(part, offset, length, ret_data, ret_length);
        *ret_data = true;
        *ret_length = length;
        return 0;
}

static bool layers_extents_known(struct source *source) {
        struct source *base = source->parts[0];

        return !base->ops->extents_known || base->ops->extents_known(base);
}

static ssize_t layers_read_now(struct source *source, void *buffer, uint64_t offset, size_t length) {
        uint64_t run;
        struct source *part = find(source, offset, length, &run);

        return part->ops->read_now(part, buffer, offset, run);
}

static int layers_check(struct source *source) {
        for (unsigned i = 0; i < source->n_parts; i++) {
                int r = source->parts[i]->ops->check(source->parts[i]);

                if (r < 0)
                        return r;
        }
        return 0;
}

static uint64_t layers_cold_mask(struct source *source, uint64_t offset, unsigned n_pages) {
        uint64_t mask = 0, run;

        for (unsigned page = 0; page < n_pages; page += (unsigned) (run / PB_PAGE_BYTES)) {
                uint64_t at = offset + page * PB_PAGE_BYTES;
                struct source *part = find(source, at, (n_pages - page) * PB_PAGE_BYTES, &run);

                mask |= part->ops->cold_mask(part, at, (unsigned) (run / PB_PAGE_BYTES)) << page;
        }
        return mask;
}

/* Reads are made from the parts, and so is this. */
static void layers_drop_behind(struct source *source, uint64_t offset, uint64_t length) {
}

static struct source *layers_leaf(struct source *source, uint64_t offset) {
        uint64_t run;

        return find(source, offset, PB_PAGE_BYTES, &run);
}

static void layers_free(struct source *source) {
        for (unsigned i = 0; i < source->n_parts; i++)
                (void) source_free(source->parts[i]);
        free(source->parts);
        free(source->name);
        free(source);
}

/* ---- can this file's holes be trusted? ---- */

/* tmpfs with huge pages calls 2 MiB data when one byte was written. The mount says so. */
static bool is_huge_tmpfs(const struct stat *st) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
        char line[4096], device[32];

        (void) snprintf(device, sizeof device, " %u:%u ", major(st->st_dev), minor(st->st_dev));
        while (f && fgets(line, sizeof line, f))
                if (strstr(line, device) && strstr(line, "huge=") && !strstr(line, "huge=never"))
                        return true;
        return false;
}

static const char *distrust(struct source *layer) {
        uint64_t length;
        struct statfs fs;
        struct stat st;
        bool data;

        if (layer->fd < 0)
                return "a layer must be a file: elsewhere nobody can tell a hole from zeros";
        if (fstat(layer->fd, &st) < 0 || fstatfs(layer->fd, &fs) < 0)
                return strerror(errno);
        if (fs.f_frsize > (long) PB_PAGE_BYTES || fs.f_bsize > (long) PB_PAGE_BYTES)
                return "its file system's blocks are larger than 4 KiB, and so are its holes: pages nobody wrote would hide the "
                       "layer below";
        if (fs.f_type == TMPFS_MAGIC && is_huge_tmpfs(&st))
                return "it is on a tmpfs with huge pages, whose holes are larger than a page: pages nobody wrote would hide the "
                       "layer below";
        if (layer->ops->extent(layer, 0, layer->size, &data, &length) == 0 && data && length == layer->size &&
            (uint64_t) st.st_blocks * 512 < layer->size)
                return "its file system does not say where its holes are";
        return NULL;
}

/* ---- start ---- */

static int fail(char **ret_error, int error, const char *name, const char *why) {
        if (asprintf(ret_error, "layer '%s': %s", name, why) < 0)
                *ret_error = NULL;
        return error;
}

static int add_layer(struct source *source, const char *name, char **ret_error) {
        struct source *layer;
        const char *why;
        char *names;
        int r;

        if (strncmp(name, "file:", 5) != 0)
                return fail(ret_error, -EINVAL, name, "a layer must be file:PATH; only the base may be something else");
        r = source_open(&layer, name, NULL, ret_error);
        if (r < 0)
                return r;
        source->parts[source->n_parts++] = layer;
        why = distrust(layer);
        if (layer->size > source->size)
                why = "is larger than the source below it";
        if (why)
                return fail(ret_error, -EINVAL, name, why);
        source->may_block |= layer->may_block;
        if (asprintf(&names, "%s + %s", source->name, name) < 0)
                return -ENOMEM;
        free(source->name);
        source->name = names;
        return 0;
}

static void identify(struct source *source) {
        uint64_t words[SOURCE_PARTS_MAX][SOURCE_IDENTITY_WORDS];

        for (unsigned i = 0; i < source->n_parts; i++)
                memcpy(words[i], source->parts[i]->identity, sizeof words[i]);
        source_identify(source, words, source->n_parts * sizeof words[0]);
}

int source_open_layers(struct source **ret, struct source *base, char *const layers[], unsigned n_layers, char **ret_error) {
        static const struct source_ops ops = {
                .scheme = "layers",
                .extent = layers_extent,
                .extents_known = layers_extents_known,
                .read_now = layers_read_now,
                .check = layers_check,
                .cold_mask = layers_cold_mask,
                .drop_behind = layers_drop_behind,
                .leaf = layers_leaf,
                .free = layers_free,
        };
        struct source *source = calloc(1, sizeof *source);
        int r = 0;

        assert(n_layers < SOURCE_PARTS_MAX);
        if (!source) {
                (void) source_free(base);
                return -ENOMEM;
        }
        *source = (struct source) { .ops = &ops, .fd = -1, .size = base->size, .odd_size = base->odd_size, .may_block = base->may_block };
        source->name = strdup(base->name);
        source->parts = calloc(SOURCE_PARTS_MAX, sizeof(struct source *));
        if (!source->name || !source->parts) {
                (void) source_free(base);
                r = -ENOMEM;
        } else
                source->parts[source->n_parts++] = base;
        for (unsigned i = 0; r == 0 && i < n_layers; i++)
                r = add_layer(source, layers[i], ret_error);
        if (r < 0) {
                layers_free(source);
                return r;
        }
        identify(source);
        *ret = source;
        return 0;
}
