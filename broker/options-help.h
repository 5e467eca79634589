/* SPDX-License-Identifier: MIT */
#pragma once

void options_print_help(void);
