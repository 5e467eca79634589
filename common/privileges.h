/* SPDX-License-Identifier: MIT */
#pragma once

/* Becomes `user` (a name or number; NULL: stays), drops every capability and sets no_new_privs. Logs why not. */
int privileges_drop(const char *user);
