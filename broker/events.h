/* SPDX-License-Identifier: MIT */
/*
 * MESSAGE_IDs of what an admin may want to look for: `journalctl MESSAGE_ID=...`. What each means and what to do is in
 * systemd/pagebroker.catalog (`journalctl --catalog`); a test compares the two. Never reused.
 */
#pragma once

#define EVENT_READY "15a2ccfba6cd47628ac909fe0412156b"
#define EVENT_STOPPED "74d4727e25114454abb8f9f6bbee591d"
#define EVENT_COMPLETE "8920c0a6d6ef4fb0bd7186231940cd5e"
#define EVENT_CLIENT_CONNECTED "c1e668f8092941f7b8b29950cb95cde5"
#define EVENT_CLIENT_GONE "793ca4c556be468983d10604a99e7100"
#define EVENT_CLIENT_EXPELLED "b6ab355d03c0451989d50ec56e50a532"
#define EVENT_PEER_ATTACHED "85642847deaa4e6f8bef38d763f6e5d9"
#define EVENT_PEER_GONE "5bce1a8903ab4632891a4aa02284e083"
#define EVENT_POISONED "ac0781ff13f14b089bb02c368439c5ea"
#define EVENT_HEALED "2742392e79ed4c919e2f6e682a21c1f7"
#define EVENT_SOURCE_LOST "9a1d0d10152144f9babf8d1a2fe7789d"
#define EVENT_SOURCE_FAILS "15d43f4ad4b44e289551bbe69eb5f76c"
#define EVENT_SOURCE_ANSWERS "9bd3df73ae6a4aa289c5afd7afcd751e"
#define EVENT_PAGER_STUCK "74bfd7ab2d7745b7a5db54a8a6fda819"
#define EVENT_VM_LOST "bc254a6df042428c88728cf04ba8420f"
#define EVENT_CARRIES_ON "0dd47266091a42fabda6c97bce539fc1"
