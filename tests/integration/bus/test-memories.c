/* SPDX-License-Identifier: MIT */
/* Memory that comes and goes: its objects come and go with it, and nobody else's path changes. */
#include <string.h>

#include "common/cleanup.h"
#include "tests/integration/bus/support.h"

#define PAGES 256u
#define SIZE ((uint64_t) PAGES * TEST_PAGE)
#define GPA(memory) ((uint64_t) (memory) << 32)

static struct test_image image, dimm;
static pb_client *vmm;

static void start(struct scene *scene) {
        test_image_make(&image, &(struct test_image_spec) { .seed = 61, .n_pages = PAGES });
        test_image_make(&dimm, &(struct test_image_spec) { .seed = 62, .n_pages = PAGES });
        SCENE_START(scene, TEST_MEMORY("ram0", &image), test_memory("dimm0", &dimm, ",plugged=off"),
                    test_memory("dimm1", &dimm, ",plugged=off"), "--fill=off");
        vmm = test_connect(&scene->broker, PB_ROLE_VMM);
}

static void stop(struct scene *scene) {
        vmm = test_disconnect(vmm);
        scene_stop(scene);
        test_image_unlink(&image);
        test_image_unlink(&dimm);
}

static void plug(unsigned memory) {
        const struct pb_memory_region where = { .gpa = GPA(memory), .size = SIZE };

        cr_assert_eq(pb_add_memory(vmm, memory == 1 ? "dimm0" : "dimm1", &where, 1), (int) memory, "%s", pb_explain(vmm));
}

static void unplug(unsigned memory, unsigned region) {
        cr_assert_eq(pb_release_region(vmm, region), 0, "%s", pb_explain(vmm));
        cr_assert_eq(pb_remove_memory(vmm, memory), 0, "%s", pb_explain(vmm));
}

/* What the object manager lists, of one kind: the paths' last parts. */
static unsigned list(sd_bus *us, const char *kind, char *ret, size_t size) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *path;
        unsigned n = 0;

        ret[0] = 0;
        cr_assert(sd_bus_call_method(us, SERVICE, "/org/pagebroker1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects",
                                     NULL, &reply, "") >= 0);
        cr_assert(sd_bus_message_enter_container(reply, 'a', "{oa{sa{sv}}}") > 0);
        while (sd_bus_message_enter_container(reply, 'e', "oa{sa{sv}}") > 0) {
                cr_assert(sd_bus_message_read(reply, "o", &path) > 0 && sd_bus_message_skip(reply, "a{sa{sv}}") >= 0);
                if (strncmp(path, kind, strlen(kind)) == 0 && strlen(ret) + strlen(path) < size) {
                        (void) strcat(strcat(ret, " "), path + strlen(kind));
                        n++;
                }
                cr_assert(sd_bus_message_exit_container(reply) >= 0);
        }
        return n;
}

static bool lists(sd_bus *us, const char *kind, const char *const numbers[], unsigned n) {
        char all[512];
        bool ok = list(us, kind, all, sizeof all) == n;

        for (unsigned i = 0; i < n; i++)
                ok = ok && strstr(all, numbers[i]);
        return ok;
}

#define LISTS(us, kind, ...) \
        lists((us), "/org/pagebroker1/" kind, (const char *const[]) { __VA_ARGS__ }, \
              sizeof((const char *const[]) { __VA_ARGS__ }) / sizeof(char *))

TEST(memories, objects_come_and_go_and_the_others_stay_where_they_are) {
        struct scene scene;

        start(&scene);
        cr_assert(LISTS(scene.us, "source", " /0") && LISTS(scene.us, "region", " /0"));
        plug(1);
        plug(2);
        cr_assert(LISTS(scene.us, "source", " /0", " /1", " /2") && LISTS(scene.us, "region", " /0", " /5", " /9"));
        cr_assert(string_is(scene.us, "/org/pagebroker1/region/9", REGION_INTERFACE, "Memory", "dimm1"));
        cr_assert_eq(get_number(scene.us, "/org/pagebroker1/region/5", REGION_INTERFACE, "Address"), GPA(1));
        test_ensure(vmm, GPA(2), 7 * TEST_PAGE, PB_READ);
        cr_assert(EVENTUALLY(get_number(scene.us, "/org/pagebroker1/region/9", REGION_INTERFACE, "PagesPresent") >= 7));
        unplug(1, 1);
        cr_assert(LISTS(scene.us, "source", " /0", " /2") && LISTS(scene.us, "region", " /0", " /9"));
        cr_assert(string_is(scene.us, "/org/pagebroker1/region/9", REGION_INTERFACE, "Memory", "dimm1"));
        cr_assert_eq(get_number(scene.us, "/org/pagebroker1/region/9", REGION_INTERFACE, "Address"), GPA(2));
        cr_assert(get_number(scene.us, "/org/pagebroker1/region/9", REGION_INTERFACE, "PagesPresent") >= 7);
        cr_assert_eq(VM_NUMBER(scene.us, "PagesTotal"), 2 * PAGES);
        stop(&scene);
}

static int count_signal(sd_bus_message *message, void *data, sd_bus_error *error) {
        struct listener *listener = data;

        listener->n++;
        listener->last = sd_bus_message_unref(listener->last);
        listener->last = sd_bus_message_ref(message);
        return 0;
}

static void listen_for_objects(struct listener *ret, sd_bus *us, const char *member) {
        *ret = (struct listener) { .us = us };
        cr_assert(sd_bus_match_signal(us, &ret->slot, SERVICE, "/org/pagebroker1", "org.freedesktop.DBus.ObjectManager", member,
                                      count_signal, ret) >= 0);
}

TEST(memories, comings_and_goings_are_told) {
        struct listener added, removed, came, left;
        const char *name, *path;
        struct scene scene;
        uint32_t index;
        uint64_t size;

        start(&scene);
        listen_for_objects(&added, scene.us, "InterfacesAdded");
        listen_for_objects(&removed, scene.us, "InterfacesRemoved");
        listen_for(&came, scene.us, "MemoryAdded");
        listen_for(&left, scene.us, "MemoryRemoved");
        plug(2);
        cr_assert(EVENTUALLY(heard(&came, 1)));
        cr_assert(sd_bus_message_read(came.last, "sut", &name, &index, &size) >= 0);
        cr_assert(strcmp(name, "dimm1") == 0 && index == 2 && size == SIZE);
        cr_assert(EVENTUALLY(heard(&added, 2)));
        cr_assert(sd_bus_message_read(added.last, "o", &path) >= 0);
        cr_assert_str_eq(path, "/org/pagebroker1/source/2");
        cr_assert_eq(removed.n, 0);
        unplug(2, 1);
        cr_assert(EVENTUALLY(heard(&left, 1)));
        cr_assert(sd_bus_message_read(left.last, "su", &name, &index) >= 0);
        cr_assert(strcmp(name, "dimm1") == 0 && index == 2);
        cr_assert(EVENTUALLY(heard(&removed, 2)));
        cr_assert(sd_bus_message_read(removed.last, "o", &path) >= 0);
        cr_assert_str_eq(path, "/org/pagebroker1/source/2");
        listen_done(&added);
        listen_done(&removed);
        listen_done(&came);
        listen_done(&left);
        stop(&scene);
}

TEST(memories, one_that_is_not_plugged_in_is_no_memory_to_any_method) {
        uint64_t pages, slices;
        struct scene scene;
        sd_bus_message *reply;

        start(&scene);
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "GetMap", "uttu", 1, (uint64_t) 0, (uint64_t) 0, 8));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "Prefetch", "utt", 1, (uint64_t) 0, (uint64_t) 1));
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "Heal", "utt", 1, (uint64_t) 0, (uint64_t) 1));
        plug(1);
        test_ensure(vmm, GPA(1), SIZE, PB_READ);
        unplug(1, 1);
        reply = call(scene.us, "Audit", "");
        cr_assert(sd_bus_message_skip(reply, "a(ss)") >= 0 && sd_bus_message_read(reply, "tt", &pages, &slices) >= 0);
        cr_assert_eq(pages, PAGES);
        (void) sd_bus_message_unref(reply);
        cr_assert(call_fails(scene.us, "org.pagebroker1.Error.NoSuchMemory", "GetMap", "uttu", 1, (uint64_t) 0, (uint64_t) 0, 8));
        stop(&scene);
}

TEST(memories, completion_is_told_again_after_something_was_plugged_in) {
        struct listener completed;
        struct scene scene;

        start(&scene);
        listen_for(&completed, scene.us, "Completed");
        test_ensure(vmm, 0, SIZE, PB_READ);
        cr_assert(EVENTUALLY(heard(&completed, 1)));
        plug(1);
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "restoring"));
        cr_assert_eq(VM_NUMBER(scene.us, "CompletedAt"), 0);
        test_ensure(vmm, GPA(1), SIZE, PB_READ);
        cr_assert(EVENTUALLY(heard(&completed, 2)));
        cr_assert(string_is(scene.us, VM, VM_INTERFACE, "State", "complete"));
        stop(&scene);
        listen_done(&completed);
}
