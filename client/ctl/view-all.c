/* SPDX-License-Identifier: MIT */
/* Several brokers, asked at once: one that hangs takes no time from the others. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/view.h"

struct question {
        struct view_answer *answer;
        unsigned *n_open;
        sd_bus_slot *slot;
        bool open;
};

static void close_question(struct question *question, int r, const char *error) {
        question->answer->r = r;
        question->answer->error = r < 0 ? strdup(error ?: strerror(-r)) : NULL;
        question->open = false;
        (*question->n_open)--;
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *ret_error) {
        struct question *question = data;
        const sd_bus_error *error = sd_bus_message_get_error(reply);

        if (error)
                close_question(question, -sd_bus_message_get_errno(reply), error->message);
        else
                close_question(question, view_take(reply, &question->answer->view), NULL);
        return 0;
}

static void ask(const struct broker *broker, uint64_t limit_us, struct question *question) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r = view_make_call(broker, &call);

        question->open = true;
        (*question->n_open)++;
        if (r >= 0)
                r = sd_bus_call_async(broker->bus, &question->slot, call, on_reply, question, limit_us);
        if (r < 0)
                close_question(question, r, NULL);
}

void views_read(sd_bus *bus, const struct broker *brokers, unsigned n, uint64_t limit_us, struct view_answer *ret) {
        struct question *questions = calloc(n + 1, sizeof *questions);
        unsigned n_open = 0;
        int r = 0;

        if (!questions)
                abort();
        for (unsigned i = 0; i < n; i++) {
                ret[i] = (struct view_answer) {};
                questions[i] = (struct question) { .answer = &ret[i], .n_open = &n_open };
                ask(&brokers[i], limit_us, &questions[i]);
        }
        while (n_open > 0 && r >= 0) {
                r = sd_bus_process(bus, NULL);
                if (r == 0 && n_open > 0) /* 0 also after a limit has passed */
                        r = sd_bus_wait(bus, UINT64_MAX); /* until the next limit, at the latest */
                if (r == -EINTR)
                        r = 0;
        }
        for (unsigned i = 0; i < n; i++) {
                if (questions[i].open)
                        close_question(&questions[i], r, NULL); /* the bus has gone */
                (void) sd_bus_slot_unref(questions[i].slot);
        }
        free(questions);
}

void view_answer_done(struct view_answer *answer) {
        view_done(&answer->view);
        free(answer->error);
        *answer = (struct view_answer) {};
}
