/* SPDX-License-Identifier: MIT */
/* Who may connect as what (--allow), and on whose account. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "protocol/message.h"

struct broker;

/* `who` is what the kernel says of the sender of HELLO on `fd`. */
bool access_is_granted(const struct broker *broker, enum pb_role role, const struct ucred *who, int fd);

/* The user that `who` counts as: himself, or ACCOUNT_STRANGERS if he may not connect in any role. */
uid_t access_account(const struct broker *broker, const struct ucred *who, int fd);
