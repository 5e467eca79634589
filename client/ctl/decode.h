/* SPDX-License-Identifier: MIT */
/*
 * What brokers say, as JSON: the one form in which the commands pass it on, print it (--json) and read it themselves.
 * D-Bus names become what JSON calls them: PagesTotal -> pages_total.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "common/cleanup.h"

static inline void json_freep(json_object **o) {
        if (*o)
                (void) json_object_put(*o);
}

#define _cleanup_json_ _cleanup_(json_freep)

/* The next complete value of the message, whatever its type is: dictionaries with words for keys become objects, arrays
 * and structs arrays, a variant what is in it. -EBADMSG for what JSON has no form for. */
int decode_value(sd_bus_message *message, json_object **ret);

/* Every argument of the message: one value for one, an array of them for several, null for none. */
int decode_message(sd_bus_message *message, json_object **ret);

/* Reading; what is missing or of another kind is 0, "", false or NULL. */
uint64_t json_u64(const json_object *object, const char *key);
double json_double(const json_object *object, const char *key);
bool json_is(const json_object *object, const char *key);
const char *json_text(const json_object *object, const char *key);
json_object *json_get(const json_object *object, const char *key);
unsigned json_length(const json_object *array);

/* Adding. Out of memory ends the program. */
void json_set_u64(json_object *object, const char *key, uint64_t value);
void json_set_bool(json_object *object, const char *key, bool value);
void json_set_text(json_object *object, const char *key, const char *value);
void json_set(json_object *object, const char *key, json_object *value);
/* Copies every member of `from`. */
void json_merge(json_object *object, const json_object *from);
json_object *json_new_object(void);
json_object *json_new_array(void);

/* One line on standard output. */
void json_print(const json_object *object);
