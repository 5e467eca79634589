#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Parses a file of OpenMetrics text with the parser of prometheus_client, which is strict, and looks at a few samples."""
import sys

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
except ImportError:
    sys.exit(77)

with open(sys.argv[1], encoding="utf-8") as file:
    families = {family.name: family for family in text_string_to_metric_families(file.read())}


def values(family, /, **labels):
    return [sample.value for sample in families[family].samples
            if all(sample.labels.get(key) == value for key, value in labels.items())]


assert values("pagebroker_up", vm="web2") == [0], families["pagebroker_up"]
assert values("pagebroker_faults", vm="web1", **{"class": "device"}) == [11]
assert values("pagebroker_client_waiting", name='q"e\\mu\033[31m') == [2], families["pagebroker_client_waiting"]
assert families["pagebroker_wait_seconds"].type == "histogram"
assert values("pagebroker_wait_seconds", le="+Inf", **{"class": "vcpu"}) == [4]
assert all(family.documentation for family in families.values())
