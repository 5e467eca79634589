# SPDX-License-Identifier: MIT
"""layouts.txt, and structs in bytes from and to `name=value` words."""
import errno
import re
import sys

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "error": 4, "magic": 8}
BYTE_ORDER = sys.byteorder


class Field:
    def __init__(self, offset, kind, name, varies):
        self.offset, self.kind, self.name, self.varies = offset, kind, name, varies
        text = re.fullmatch(r"char\[(\d+)\]", kind)
        self.size = int(text[1]) if text else SIZES[kind]

    def encode(self, word):
        if self.kind.startswith("char"):
            return word.encode().ljust(self.size, b"\0")
        return int(word, 0).to_bytes(self.size, BYTE_ORDER)

    def decode(self, data):
        if self.kind.startswith("char"):
            text, _, rest = data.partition(b"\0")
            return text.decode().replace(" ", "_") + ("+" + rest.hex() if rest.strip(b"\0") else "")
        if self.kind == "magic":
            return data.decode("latin-1").rstrip("\0")
        value = int.from_bytes(data, BYTE_ORDER, signed=self.kind == "error")
        return "-" + errno.errorcode.get(-value, str(-value)) if self.kind == "error" and value < 0 else str(value)


class Struct:
    def __init__(self, name, size, number=None):
        self.name, self.size, self.number, self.fields = name, size, number, []

    def encode(self, words):
        data = bytearray(self.size)
        for field in self.fields:
            if field.name in words:
                data[field.offset:field.offset + field.size] = field.encode(words.pop(field.name))
        if words:
            raise SystemExit(f"{self.name} has no field {', '.join(words)}")
        return data

    def decode(self, data):
        """The fields that are not zero, by name; and whatever no field covers and is not zero."""
        rest, found = bytearray(data[:self.size]), {}
        for field in self.fields:
            piece = bytes(data[field.offset:field.offset + field.size])
            rest[field.offset:field.offset + field.size] = bytes(field.size)
            if any(piece) or field.varies:
                found[field.name] = field.decode(piece)
        for offset in [i for i, byte in enumerate(rest) if byte][:8]:
            found[f"byte{offset}"] = str(rest[offset])
        return found

    def varies(self, name):
        return any(field.name == name and field.varies for field in self.fields)


class Layouts:
    def __init__(self, path):
        self.structs, self.messages, self.places = {}, {}, {}
        with open(path, encoding="utf-8") as file:
            for line in file:
                words = line.split("#")[0].split()
                if words:
                    self.take(words)

    def take(self, words):
        if words[0] == "place":
            self.places[words[1]] = int(words[2])
        elif words[0] == "message":
            struct = Struct(words[1], int(words[3]), int(words[2]))
            struct.fields += [Field(0, "u32", "type", False), Field(4, "u32", "bytes", False), Field(8, "u64", "serial", False)]
            self.structs[words[1]] = self.messages[struct.number] = self.last = struct
        elif words[0] == "struct":
            self.last = self.structs[words[1]] = Struct(words[1], int(words[2]))
        else:
            self.last.fields.append(Field(int(words[0]), words[1], words[2], words[3:] == ["~"]))
