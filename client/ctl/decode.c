/* SPDX-License-Identifier: MIT */
#include "client/ctl/decode.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a broker sends is nested nine deep at most; what somebody else sends could be 128 deep. */
#define DEPTH_MAX 16

static int decode(sd_bus_message *m, unsigned depth, json_object **ret);

/* PagesTotal -> pages_total; what is no such word (an interface, a path) stays. */
static void name_convert(const char *name, char *ret, size_t size) {
        bool is_word = isupper((unsigned char) name[0]) && !strpbrk(name, "./");
        size_t n = 0;

        for (const char *c = name; *c && n + 2 < size; c++) {
                if (is_word && isupper((unsigned char) *c)) {
                        /* "PidFd" -> "pid_fd", "UID" -> "uid". */
                        if (c != name && (!isupper((unsigned char) c[-1]) || islower((unsigned char) c[1])))
                                ret[n++] = '_';
                        ret[n++] = (char) tolower((unsigned char) *c);
                } else
                        ret[n++] = *c;
        }
        ret[n] = 0;
}

static int decode_basic(sd_bus_message *m, char type, json_object **ret) {
        union {
                uint8_t y;
                int b;
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
                const char *s;
        } value = {};
        int r = sd_bus_message_read_basic(m, type, &value);

        if (r < 0)
                return r;
        switch (type) {
        case 'y':
                *ret = json_object_new_int(value.y);
                return 0;
        case 'b':
                *ret = json_object_new_boolean(value.b);
                return 0;
        case 'n':
                *ret = json_object_new_int(value.n);
                return 0;
        case 'q':
                *ret = json_object_new_int(value.q);
                return 0;
        case 'i':
                *ret = json_object_new_int(value.i);
                return 0;
        case 'u':
                *ret = json_object_new_int64(value.u);
                return 0;
        case 'x':
                *ret = json_object_new_int64(value.x);
                return 0;
        case 't':
                *ret = json_object_new_uint64(value.t);
                return 0;
        case 'd':
                *ret = json_object_new_double(value.d);
                return 0;
        case 's':
        case 'o':
        case 'g':
                *ret = json_object_new_string(value.s);
                return 0;
        default:
                return -EBADMSG;
        }
}

static int decode_dictionary(sd_bus_message *m, const char *contents, unsigned depth, json_object **ret) {
        _cleanup_json_ json_object *object = json_new_object();
        int r;

        r = sd_bus_message_enter_container(m, 'a', contents);
        if (r < 0)
                return r;
        while ((r = sd_bus_message_at_end(m, false)) == 0) {
                json_object *value;
                const char *key;
                char name[128];

                r = sd_bus_message_enter_container(m, 'e', NULL);
                if (r >= 0)
                        r = sd_bus_message_read_basic(m, contents[1], &key);
                if (r < 0)
                        return r;
                name_convert(key, name, sizeof name);
                r = decode(m, depth, &value);
                if (r < 0)
                        return r;
                json_set(object, name, value);
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = PTR_TAKE(object);
        return 0;
}

static int decode_sequence(sd_bus_message *m, char type, const char *contents, unsigned depth, json_object **ret) {
        _cleanup_json_ json_object *array = json_new_array();
        int r = sd_bus_message_enter_container(m, type, contents);

        if (r < 0)
                return r;
        while ((r = sd_bus_message_at_end(m, false)) == 0) {
                json_object *value;

                r = decode(m, depth, &value);
                if (r < 0)
                        return r;
                if (json_object_array_add(array, value) < 0)
                        abort();
        }
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = PTR_TAKE(array);
        return 0;
}

static int decode(sd_bus_message *m, unsigned depth, json_object **ret) {
        const char *contents;
        char type;
        int r;

        if (depth == 0)
                return -EBADMSG;
        r = sd_bus_message_peek_type(m, &type, &contents);
        if (r < 0)
                return r;
        if (r == 0)
                return -EBADMSG;
        if (type == 'a' && contents[0] == '{' && strchr("sog", contents[1]))
                return decode_dictionary(m, contents, depth - 1, ret);
        if (type == 'a' || type == 'r')
                return decode_sequence(m, type, contents, depth - 1, ret);
        if (type != 'v')
                return decode_basic(m, type, ret);
        r = sd_bus_message_enter_container(m, 'v', contents);
        if (r < 0)
                return r;
        r = decode(m, depth - 1, ret);
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                json_freep(ret);
        return r;
}

int decode_value(sd_bus_message *message, json_object **ret) {
        json_object *value;
        int r = decode(message, DEPTH_MAX, &value);

        if (r < 0)
                return r;
        *ret = value;
        return 0;
}

int decode_message(sd_bus_message *message, json_object **ret) {
        _cleanup_json_ json_object *array = json_new_array();
        int r;

        while ((r = sd_bus_message_at_end(message, true)) == 0) {
                json_object *value;

                r = decode_value(message, &value);
                if (r < 0)
                        return r;
                if (json_object_array_add(array, value) < 0)
                        abort();
        }
        if (r < 0)
                return r;
        if (json_length(array) == 0)
                *ret = NULL;
        else if (json_length(array) == 1)
                *ret = json_object_get(json_object_array_get_idx(array, 0));
        else
                *ret = PTR_TAKE(array);
        return 0;
}

json_object *json_get(const json_object *object, const char *key) {
        json_object *value;

        return json_object_object_get_ex(object, key, &value) ? value : NULL;
}

uint64_t json_u64(const json_object *object, const char *key) {
        return json_object_get_uint64(json_get(object, key));
}

double json_double(const json_object *object, const char *key) {
        return json_object_get_double(json_get(object, key));
}

bool json_is(const json_object *object, const char *key) {
        return json_object_get_boolean(json_get(object, key));
}

const char *json_text(const json_object *object, const char *key) {
        json_object *value = json_get(object, key);

        return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
}

unsigned json_length(const json_object *array) {
        return json_object_is_type(array, json_type_array) ? (unsigned) json_object_array_length(array) : 0;
}

void json_set(json_object *object, const char *key, json_object *value) {
        if (json_object_object_add(object, key, value) < 0)
                abort();
}

void json_set_u64(json_object *object, const char *key, uint64_t value) {
        json_set(object, key, json_object_new_uint64(value));
}

void json_set_bool(json_object *object, const char *key, bool value) {
        json_set(object, key, json_object_new_boolean(value));
}

void json_set_text(json_object *object, const char *key, const char *value) {
        json_set(object, key, json_object_new_string(value));
}

void json_merge(json_object *object, const json_object *from) {
        if (!from)
                return;
        json_object_object_foreach((json_object *) from, key, value) json_set(object, key, json_object_get(value));
}

json_object *json_new_object(void) {
        json_object *object = json_object_new_object();

        if (!object)
                abort();
        return object;
}

json_object *json_new_array(void) {
        json_object *array = json_object_new_array();

        if (!array)
                abort();
        return array;
}

void json_print(const json_object *object) {
        (void) puts(json_object_to_json_string_ext((json_object *) object, JSON_C_TO_STRING_PLAIN |
                                                                                   JSON_C_TO_STRING_NOSLASHESCAPE |
                                                                                   JSON_C_TO_STRING_SPACED));
}
