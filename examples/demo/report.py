# SPDX-License-Identifier: MIT
"""The table at the end, and what has to be true for the demo to have worked."""

import textwrap

NOTES_WIDTH = 100
ABSENT_AT_FIRST_LINE_MIN = 0.90
MISSING = "-"


def _seconds(value):
    return MISSING if value is None else f"{value:.2f} s"


def _present(status):
    if status is None:
        return "all"
    total = status["pages_data"]
    return f"{status['pages_data_present']} of {total} ({status['pages_data_present'] / max(1, total):.1%})"


def _faults(result, key):
    if result.at_end is None:
        return MISSING
    return f"{result.at_first_line[key]}, in all {result.at_end[key]}"


def _rows(copy, lazy):
    yield "", copy.name, lazy.name
    yield "time to the first guest line", _seconds(copy.first_line_s), _seconds(lazy.first_line_s)
    yield "data pages here at that moment", _present(copy.at_first_line), _present(lazy.at_first_line)
    yield "faults of QEMU and its vCPU until then", _faults(copy, "faults_peer"), _faults(lazy, "faults_peer")
    yield "faults of the disk device until then", _faults(copy, "faults_linked"), _faults(lazy, "faults_linked")
    yield "time until everything is here", _seconds(copy.all_present_s), _seconds(lazy.all_present_s)
    yield "ballooned while memory arrives", _balloon(copy), _balloon(lazy)
    for part, label in (("memory", "guest's verdict: its memory"), ("disk", "guest's verdict: disk, read anew"),
                        ("write", "guest's verdict: written by the device")):
        yield label, copy.verdicts.get(part, MISSING), lazy.verdicts.get(part, MISSING)


def _balloon(result):
    return MISSING if result.balloon_mib is None else f"{result.balloon_mib} MiB, and back"


def print_table(copy, lazy, say):
    rows = list(_rows(copy, lazy))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    say("")
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    say("")


def print_notes(setup, say):
    text = (
        f"Same guest, same snapshot ({'not ' if setup.cold else ''}in page cache), {setup.accel.upper()}. Copy first: "
        "all of the snapshot's data into a memfd, then QEMU and qemu-storage-daemon. Lazy: pagebrokerd, QEMU under "
        "pagebroker-run, and the linked disk device start at once; the fill starts after the first line. Both times "
        "count from before the first of these steps.")
    say(textwrap.fill(text, NOTES_WIDTH, break_on_hyphens=False))


def _ends_ok(result):
    return all(result.verdicts.get(part, "").startswith("ok") for part in ("memory", "disk", "write"))


def failures(copy, lazy, flipped):
    """What went wrong, in sentences. Empty: the demo shows what it says."""
    first = lazy.at_first_line
    absent = 1 - first["pages_data_present"] / max(1, first["pages_data"])
    checks = [
        (_ends_ok(copy), f"copy first: the guest's verdict is not ok: {copy.verdicts}"),
        (_ends_ok(lazy), f"lazy: the guest's verdict is not ok: {lazy.verdicts}"),
        (copy.verdicts.get("memory") == lazy.verdicts.get("memory"), "the two restores give different checksums"),
        (absent > ABSENT_AT_FIRST_LINE_MIN, f"only {absent:.1%} of the data pages were absent at the first line"),
        (lazy.at_end["faults_peer"] > 0, "QEMU and its vCPU had no faults: this restore was not lazy"),
        (lazy.balloon_mib, "the guest's balloon was not tried"),
        (lazy.at_end["faults_linked"] > 0, "the disk device had no faults of its own"),
        (flipped is None or flipped.verdicts.get("memory", "").startswith("MISMATCH 1 of"),
         f"one byte of the snapshot was flipped and the guest did not report it: {flipped and flipped.verdicts}"),
    ]
    return [sentence for is_true, sentence in checks if not is_true]


def verdict(copy, lazy, failed):
    """The last line."""
    if failed:
        return f"demo: FAILED: {'; '.join(failed)}"
    return (f"demo: ok: the guest's first line came after {_seconds(lazy.first_line_s)} restored lazily, after "
            f"{_seconds(copy.first_line_s)} copied first; all verdicts are ok, and the changed byte was noticed")


def as_json(setup, copy, lazy, flipped, failed):
    return {
        "accel": setup.accel,
        "memory_mib": setup.memory_mib,
        "fill_mib": setup.fill_mib,
        "snapshot_in_page_cache": not setup.cold,
        "copy": copy.as_dict(),
        "lazy": lazy.as_dict(),
        "flipped": flipped.as_dict() if flipped else None,
        "failed": failed,
    }
