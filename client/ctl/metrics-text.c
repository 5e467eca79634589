/* SPDX-License-Identifier: MIT */
#include "client/ctl/metrics-text.h"

#include <inttypes.h>
#include <string.h>

#include "client/ctl/decode.h"
#include "common/macro.h"

/* Fixed bounds, so that buckets can be added up over machines: 1, 2, 5 from 10 us to 100 s. */
static const struct {
        const char *text;
        uint64_t ns;
} bounds[] = {
        { "0.00001", 10000 },    { "0.00002", 20000 },      { "0.00005", 50000 },    { "0.0001", 100000 },
        { "0.0002", 200000 },    { "0.0005", 500000 },      { "0.001", 1000000 },    { "0.002", 2000000 },
        { "0.005", 5000000 },    { "0.01", 10000000 },      { "0.02", 20000000 },    { "0.05", 50000000 },
        { "0.1", 100000000 },    { "0.2", 200000000 },      { "0.5", 500000000 },    { "1.0", 1000000000 },
        { "2.0", 2000000000 },   { "5.0", 5000000000 },     { "10.0", 10000000000 }, { "20.0", 20000000000 },
        { "50.0", 50000000000 }, { "100.0", 100000000000 },
};

/* What a value is, and how it is written. */
enum unit {
        NUMBER,
        BOOLEAN,
        MICROSECONDS, /* written as seconds */
        RATIO,
};

struct metric {
        const char *name, *key;
        bool is_counter;
        enum unit unit;
        const char *om_unit; /* the name ends with it */
        const char *help;
};

static const struct metric vm_metrics[] = {
        { "pagebroker_complete", "complete", false, BOOLEAN, NULL, "1: every page is present." },
        { "pagebroker_start_time_seconds", "started_at", false, MICROSECONDS, "seconds",
          "When the broker began to serve, since 1970." },
        { "pagebroker_fill", "fill", false, BOOLEAN, NULL, "1: everything is being fetched in the background." },
        { "pagebroker_fill_limit_bytes", "fill_rate", false, NUMBER, "bytes",
          "Limit of the background fill a second; 0: none." },
        { "pagebroker_fill_speed_bytes", "fill_speed", false, NUMBER, "bytes",
          "What came from the sources a second, over the last 10 s or so." },
        { "pagebroker_fill_progress_ratio", "fill_progress", false, RATIO, "ratio",
          "Part of the sources' data that is here." },
        { "pagebroker_clients", "clients", false, NUMBER, NULL, "Connections now." },
        { "pagebroker_client_limit", "client_limit", false, NUMBER, NULL, "Connections allowed." },
        { "pagebroker_userfaultfds", "peers", false, NUMBER, NULL, "Userfaultfds served now." },
        { "pagebroker_sources_lost", "sources_lost", false, NUMBER, NULL,
          "Memories whose source has changed: their absent pages cannot be had." },
};

static const struct metric source_metrics[] = {
        { "pagebroker_memory_pages", "pages_total", false, NUMBER, NULL, "Pages of 4 KiB." },
        { "pagebroker_memory_pages_data", "pages_data", false, NUMBER, NULL, "Pages that the source has data for." },
        { "pagebroker_memory_pages_present", "pages_present", false, NUMBER, NULL, "Pages that are here." },
        { "pagebroker_memory_pages_fetched", "pages_fetched", false, NUMBER, NULL,
          "Pages that are here, with bytes from the source." },
        { "pagebroker_memory_pages_in_flight", "pages_in_flight", false, NUMBER, NULL,
          "Pages queued, being read or being installed." },
        { "pagebroker_memory_pages_poisoned", "pages_poisoned", false, NUMBER, NULL,
          "Pages that could not be had from the source." },
        { "pagebroker_memory_pages_left_out", "pages_left_out", false, NUMBER, NULL,
          "Pages that the fill could not read and nobody has wanted since." },
        { "pagebroker_source_fetched_bytes", "bytes_fetched", true, NUMBER, "bytes", "Installed from the source." },
        { "pagebroker_source_reads_failed", "reads_failed", true, NUMBER, NULL, "Reads that failed or came too late." },
        { "pagebroker_source_lost", "lost", false, BOOLEAN, NULL,
          "1: the source has changed since the start, absent pages cannot be had." },
};

static const struct metric client_metrics[] = {
        { "pagebroker_client_waiting", "waiting", false, NUMBER, NULL, "Requests and faults that wait now." },
        { "pagebroker_client_waiting_seconds", "waiting_us", false, MICROSECONDS, "seconds",
          "How long the oldest of them has waited." },
        { "pagebroker_client_requests", "requests", false, NUMBER, NULL, "Its requests under way." },
        { "pagebroker_client_requests_limit", "requests_limit", false, NUMBER, NULL, "How many it may have." },
        { "pagebroker_client_in_flight_bytes", "bytes_in_flight", false, NUMBER, "bytes",
          "Bytes under way for its requests." },
        { "pagebroker_client_in_flight_limit_bytes", "bytes_in_flight_limit", false, NUMBER, "bytes",
          "How many it may have." },
        { "pagebroker_client_held_back", "held_back", true, NUMBER, NULL,
          "Its requests that waited because of these limits." },
        { "pagebroker_client_userfaultfds", "peers", false, NUMBER, NULL, "Userfaultfds that it handed over." },
        { "pagebroker_client_faults_vcpu", "faults_vcpu", true, NUMBER, NULL, "Faults read from its userfaultfds." },
        { "pagebroker_client_faults_device", "faults_device", true, NUMBER, NULL,
          "Its requests that found an absent page." },
        { "pagebroker_client_prefetches", "prefetches", true, NUMBER, NULL, "Its hints that were taken up." },
};

struct out {
        FILE *file;
        enum metrics_format format;
};

static void write_label(const struct out *out, const char *name, const char *value, const char *before) {
        (void) fprintf(out->file, "%s%s=\"", before, name);
        for (; *value; value++)
                if (*value == '\n')
                        (void) fputs("\\n", out->file);
                else
                        (void) fprintf(out->file, "%s%c", *value == '"' || *value == '\\' ? "\\" : "", *value);
        (void) fputc('"', out->file);
}

static void write_number_label(const struct out *out, const char *name, uint64_t value) {
        (void) fprintf(out->file, ",%s=\"%" PRIu64 "\"", name, value);
}

static void write_header(const struct out *out, const char *name, const char *type, const char *unit,
                         const char *help) {
        /* There a counter is called as its samples are. */
        const char *suffix = out->format == METRICS_PLAIN && strcmp(type, "counter") == 0 ? "_total" : "";

        (void) fprintf(out->file, "# TYPE %s%s %s\n", name, suffix, type);
        if (unit && out->format == METRICS_OPEN)
                (void) fprintf(out->file, "# UNIT %s %s\n", name, unit);
        (void) fprintf(out->file, "# HELP %s%s %s\n", name, suffix, help);
}

static void write_value(const struct out *out, const struct metric *metric, const json_object *object) {
        switch (metric->unit) {
        case BOOLEAN:
                (void) fprintf(out->file, "} %d\n", json_is(object, metric->key));
                break;
        case MICROSECONDS:
                (void) fprintf(out->file, "} %.6f\n", (double) json_u64(object, metric->key) / 1e6);
                break;
        case RATIO:
                (void) fprintf(out->file, "} %.6f\n", json_double(object, metric->key));
                break;
        default:
                (void) fprintf(out->file, "} %" PRIu64 "\n", json_u64(object, metric->key));
        }
}

static void write_sample_start(const struct out *out, const struct metric *metric, const char *vm) {
        (void) fprintf(out->file, "%s%s", metric->name, metric->is_counter ? "_total" : "");
        write_label(out, "vm", vm, "{");
}

static void write_client_labels(const struct out *out, const json_object *client) {
        write_number_label(out, "client", json_u64(client, "id"));
        write_label(out, "name", json_text(client, "name"), ",");
        write_label(out, "role", json_text(client, "role"), ",");
        write_number_label(out, "pid", json_u64(client, "process_id"));
}

static void write_list(const struct out *out, const struct metric *metric, const char *vm, const json_object *list,
                       bool is_clients) {
        for (unsigned i = 0; i < json_length(list); i++) {
                const json_object *object = json_object_array_get_idx(list, i);

                write_sample_start(out, metric, vm);
                if (is_clients)
                        write_client_labels(out, object);
                else
                        write_label(out, "memory", json_text(object, "memory"), ",");
                write_value(out, metric, object);
        }
}

enum of {
        OF_VM,
        OF_SOURCE,
        OF_CLIENT,
};

static void write_family(const struct out *out, const struct metric *metric, enum of of, const struct metrics_vm *vms,
                         unsigned n) {
        write_header(out, metric->name, metric->is_counter ? "counter" : "gauge", metric->om_unit, metric->help);
        for (unsigned i = 0; i < n; i++) {
                if (!vms[i].answers)
                        continue;
                if (of == OF_VM) {
                        write_sample_start(out, metric, vms[i].name);
                        write_value(out, metric, vms[i].view.vm);
                } else
                        write_list(out, metric, vms[i].name,
                                   of == OF_CLIENT ? vms[i].view.clients : vms[i].view.sources, of == OF_CLIENT);
        }
}

static void write_faults(const struct out *out, const struct metrics_vm *vms, unsigned n) {
        write_header(out, "pagebroker_faults", "counter", NULL,
                     "Faults of userfaultfds (vcpu); requests of linked clients that found an absent page (device).");
        for (unsigned i = 0; i < n; i++) {
                if (!vms[i].answers)
                        continue;
                (void) fputs("pagebroker_faults_total", out->file);
                write_label(out, "vm", vms[i].name, "{");
                (void) fprintf(out->file, ",class=\"vcpu\"} %" PRIu64 "\n", json_u64(vms[i].view.vm, "faults_peer"));
                (void) fputs("pagebroker_faults_total", out->file);
                write_label(out, "vm", vms[i].name, "{");
                (void) fprintf(out->file, ",class=\"device\"} %" PRIu64 "\n",
                               json_u64(vms[i].view.vm, "faults_linked"));
        }
}

static void write_wait_start(const struct out *out, const char *name, const char *vm, const char *class) {
        (void) fputs(name, out->file);
        write_label(out, "vm", vm, "{");
        write_label(out, "class", class, ",");
}

/* `buckets`: [upper bound in ns, number], not cumulative, ascending. A bucket of the broker's that straddles a bound of
 * ours counts above it. */
static void write_histogram(const struct out *out, const char *vm, const char *class, const json_object *buckets,
                            double sum_s) {
        uint64_t number = 0;
        unsigned k = 0, n = json_length(buckets);

        for (unsigned i = 0; i <= ELEMENTS(bounds); i++) {
                for (; k < n; k++) {
                        const json_object *bucket = json_object_array_get_idx(buckets, k);

                        if (i < ELEMENTS(bounds) &&
                            json_object_get_uint64(json_object_array_get_idx(bucket, 0)) > bounds[i].ns)
                                break;
                        number += json_object_get_uint64(json_object_array_get_idx(bucket, 1));
                }
                write_wait_start(out, "pagebroker_wait_seconds_bucket", vm, class);
                (void) fprintf(out->file, ",le=\"%s\"} %" PRIu64 "\n", i < ELEMENTS(bounds) ? bounds[i].text : "+Inf",
                               number);
        }
        write_wait_start(out, "pagebroker_wait_seconds_sum", vm, class);
        (void) fprintf(out->file, "} %.9f\n", sum_s);
        write_wait_start(out, "pagebroker_wait_seconds_count", vm, class);
        (void) fprintf(out->file, "} %" PRIu64 "\n", number);
}

static void write_latencies(const struct out *out, const struct metrics_vm *vm) {
        const json_object *classes = json_get(vm->view.vm, "latency_buckets");

        for (unsigned i = 0; i < json_length(classes); i++) {
                const json_object *row = json_object_array_get_idx(classes, i);
                const char *class = json_object_get_string(json_object_array_get_idx(row, 0)) ?: "";
                const json_object *latency = json_get(json_get(vm->view.vm, "latency"), class);

                write_histogram(out, vm->name, class, json_object_array_get_idx(row, 1),
                                (double) json_u64(latency, "sum_ns") / 1e9);
        }
}

static void write_waits(const struct out *out, const struct metrics_vm *vms, unsigned n) {
        write_header(
                out, "pagebroker_wait_seconds", "histogram", "seconds",
                "From when the broker took a fault (vcpu), a request (device) or a hint (prefetch) to its answer.");
        for (unsigned i = 0; i < n; i++)
                if (vms[i].answers)
                        write_latencies(out, &vms[i]);
        write_header(out, "pagebroker_wait_max_seconds", "gauge", "seconds", "The longest of them since the start.");
        for (unsigned i = 0; i < n; i++) {
                json_object *latency = json_get(vms[i].view.vm, "latency");

                if (!vms[i].answers || !latency)
                        continue;
                json_object_object_foreach(latency, class, figures) {
                        write_wait_start(out, "pagebroker_wait_max_seconds", vms[i].name, class);
                        (void) fprintf(out->file, "} %.9f\n", (double) json_u64(figures, "max_ns") / 1e9);
                }
        }
}

static void write_info(const struct out *out, const struct metrics_vm *vms, unsigned n) {
        write_header(out, "pagebroker_up", "gauge", NULL, "1: the broker answers.");
        for (unsigned i = 0; i < n; i++) {
                (void) fputs("pagebroker_up", out->file);
                write_label(out, "vm", vms[i].name, "{");
                (void) fprintf(out->file, "} %d\n", vms[i].answers);
        }
        write_header(out, "pagebroker_build_info", "gauge", NULL, "Always 1; the version of the broker is a label.");
        for (unsigned i = 0; i < n; i++) {
                if (!vms[i].answers)
                        continue;
                (void) fputs("pagebroker_build_info", out->file);
                write_label(out, "vm", vms[i].name, "{");
                write_label(out, "version", json_text(vms[i].view.vm, "version"), ",");
                (void) fputs("} 1\n", out->file);
        }
}

void metrics_write(FILE *file, enum metrics_format format, const struct metrics_vm *vms, unsigned n) {
        const struct out *out = &(struct out) { .file = file, .format = format };

        write_info(out, vms, n);
        for (unsigned i = 0; i < ELEMENTS(vm_metrics); i++)
                write_family(out, &vm_metrics[i], OF_VM, vms, n);
        for (unsigned i = 0; i < ELEMENTS(source_metrics); i++)
                write_family(out, &source_metrics[i], OF_SOURCE, vms, n);
        write_faults(out, vms, n);
        write_waits(out, vms, n);
        for (unsigned i = 0; i < ELEMENTS(client_metrics); i++)
                write_family(out, &client_metrics[i], OF_CLIENT, vms, n);
        if (format == METRICS_OPEN)
                (void) fputs("# EOF\n", file);
}
