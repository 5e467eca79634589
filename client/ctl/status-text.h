/* SPDX-License-Identifier: MIT */
/* A broker's counters for people: of the bus (view.h) or of the control socket (socket.h), which has fewer. */
#pragma once

#include <json-c/json.h>

void status_print(const json_object *vm);

/* The same in a line. */
void status_print_line(const json_object *vm);

/* Is there nothing more to wait for, though not everything is here? Complains, with the reason. */
int status_complain_if_stuck(const json_object *vm);
