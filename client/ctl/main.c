/* SPDX-License-Identifier: MIT */
/* pagebrokerctl: looks at page brokers and tells them what to do, from a shell. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>

#include "client/ctl/complain.h"
#include "client/ctl/ctl.h"

int main(int argc, char **argv) {
        const struct command *command;
        struct ctl ctl;
        unsigned n;
        char **args;
        int status;

        /* The terminal's character set. Numbers stay as programs read them. */
        (void) setlocale(LC_CTYPE, "");
        if (options_parse(argc, argv, &ctl, &command, &args, &n, &status) < 0)
                return status;
        status = command->run(&ctl, args, n);
        if (fflush(stdout) != 0 || ferror(stdout))
                return complain(status ? status : STATUS_FAILURE, "standard output cannot be written");
        return status;
}
