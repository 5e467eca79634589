#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""compare.py DOCUMENTED.xml SHOWN.xml: does the running broker show the interface that is documented? Prints what differs."""
import sys
import xml.etree.ElementTree as tree

INTERFACES = "org.pagebroker1."


def describe(member):
    parts = [member.tag, member.get("name"), member.get("type", ""), member.get("access", "")]
    parts += [f"{arg.get('direction', 'out')} {arg.get('type')} {arg.get('name')}" for arg in member.findall("arg")]
    parts += sorted(f"{note.get('name')}={note.get('value')}" for note in member.findall("annotation"))
    return "; ".join(parts)


def interfaces(path):
    return {
        interface.get("name"): {describe(member) for member in interface if member.tag in ("method", "property", "signal")}
        for interface in tree.parse(path).getroot().findall("interface")
        if interface.get("name").startswith(INTERFACES)
    }


def is_documented(path):
    """Every member has a comment before it."""
    parser = tree.XMLParser(target=tree.TreeBuilder(insert_comments=True))
    ok = True
    for interface in tree.parse(path, parser).getroot().iter("interface"):
        before = None
        for member in interface:
            if member.tag in ("method", "property", "signal") and (before is None or before.tag is not tree.Comment):
                print(f"{path}: {member.get('name')} has no comment")
                ok = False
            before = member
    return ok


def main():
    documented, shown = interfaces(sys.argv[1]), interfaces(sys.argv[2])
    ok = is_documented(sys.argv[1])
    for name in documented.keys() | shown.keys():
        for member in sorted(documented.get(name, set()) ^ shown.get(name, set())):
            print(f"{name}: {'only documented' if member in documented.get(name, set()) else 'not documented'}: {member}")
            ok = False
    return 0 if ok and documented else 1


if __name__ == "__main__":
    sys.exit(main())
