/* SPDX-License-Identifier: MIT */
/* What the guest and the test that starts it know of each other. */
#pragma once

#define QEMU_GUEST_PAGE 4096u
#define QEMU_GUEST_FIRST (4u << 20) /* bytes; the guest itself is below */
#define QEMU_GUEST_STEP 64u         /* pages */
