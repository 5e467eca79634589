/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

static double report_ms(const struct report *report, uint64_t us) {
        return (double) (us - report->start_us) / 1000;
}

static uint64_t report_done_us(const struct report *report) {
        uint64_t us = 0;

        for (unsigned i = 0; i < report->machine->n_vcpus; i++)
                us = max_u64(us, report->machine->vcpus[i].done_us);
        return us;
}

static uint64_t count_mismatches(const struct report *report) {
        uint64_t n = 0;

        for (unsigned i = 0; i < report->machine->n_vcpus; i++)
                n += report->machine->vcpus[i].mismatches;
        return n;
}

static void print_words(const struct report *report) {
        const struct pb_stats *alive = &report->alive, *done = &report->done;

        (void) printf("first sign of life after %.1f ms", report_ms(report, report->alive_us));
        if (report->lazy)
                (void) printf(", %" PRIu64 " of %" PRIu64 " data pages present", alive->pages_data_present,
                              alive->pages_data);
        (void) printf("\nverdict after %.1f ms", report_ms(report, report_done_us(report)));
        if (report->lazy)
                (void) printf(", %" PRIu64 " of %" PRIu64 " data pages present, %" PRIu64
                              " faults read from userfaultfds",
                              done->pages_data_present, done->pages_data, done->faults_peer);
        (void) printf("\n");
        for (unsigned i = 0; i < report->machine->n_vcpus; i++) {
                const struct vcpu *vcpu = &report->machine->vcpus[i];

                (void) printf("vCPU %u: %" PRIu64 " pages, %" PRIu64 " mismatches\n", i, report->n_pages,
                              vcpu->mismatches);
                for (unsigned k = 0; k < min_u64(vcpu->mismatches, VCPU_MISMATCHES_MAX); k++)
                        (void) printf("  at 0x%" PRIx64 ": expected 0x%016" PRIx64 ", found 0x%016" PRIx64 "\n",
                                      vcpu->first[k].gpa, vcpu->first[k].expected, vcpu->first[k].found);
        }
}

static void print_json_mismatches(const struct vcpu *vcpu, const char **separator) {
        for (unsigned k = 0; k < min_u64(vcpu->mismatches, VCPU_MISMATCHES_MAX); k++) {
                (void) printf("%s{\"vcpu\": %u, \"gpa\": %" PRIu64 ", \"expected\": \"0x%016" PRIx64
                              "\", \"found\": \"0x%016" PRIx64 "\"}",
                              *separator, vcpu->index, vcpu->first[k].gpa, vcpu->first[k].expected,
                              vcpu->first[k].found);
                *separator = ", ";
        }
}

static void print_json(const struct report *report) {
        const struct pb_stats *alive = &report->alive, *done = &report->done;
        const char *separator = "";

        (void) printf("{\"vcpus\": %u, \"pages\": %" PRIu64 ", \"mismatches\": %" PRIu64
                      ", \"alive_ms\": %.3f, \"verdict_ms\": %.3f",
                      report->machine->n_vcpus, report->n_pages, count_mismatches(report),
                      report_ms(report, report->alive_us), report_ms(report, report_done_us(report)));
        if (report->lazy)
                (void) printf(", \"pages_data\": %" PRIu64 ", \"present_at_alive\": %" PRIu64
                              ", \"present_at_verdict\": %" PRIu64 ", \"faults_peer\": %" PRIu64
                              ", \"faults_linked\": %" PRIu64,
                              alive->pages_data, alive->pages_data_present, done->pages_data_present, done->faults_peer,
                              done->faults_linked);
        (void) printf(", \"first\": [");
        for (unsigned i = 0; i < report->machine->n_vcpus; i++)
                print_json_mismatches(&report->machine->vcpus[i], &separator);
        (void) printf("]}\n");
}

uint64_t report_print(const struct report *report, bool json) {
        if (json)
                print_json(report);
        else
                print_words(report);
        return count_mismatches(report);
}
