# SPDX-License-Identifier: MIT
"""Debian's kernel and an initramfs around our guest program, made once and kept in a cache folder."""

import glob
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
META_PACKAGE = "linux-image-cloud-amd64"
MODULES = ["virtio_pci", "virtio_blk", "virtio_balloon"]
UNPACKERS = [
    (b"\x02\x21\x4c\x18", ["lz4", "-dc"]),
    (b"\xfd7zXZ\x00", ["xz", "-dc"]),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dcq"]),
    (b"\x1f\x8b\x08", ["gzip", "-dc"]),
]


class ImageError(Exception):
    """What is missing, in words for the person who typed `make demo`."""


def _run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip() or 'failed'}")
    return done.stdout


def _kernel_package():
    """The package that the meta package stands for today: its name contains the ABI number."""
    try:
        text = _run("apt-cache", "show", "--no-all-versions", META_PACKAGE).decode()
    except ImageError:
        if os.geteuid() != 0:
            raise ImageError(f"apt knows no package {META_PACKAGE}: run apt-get update as root first") from None
        _run("apt-get", "-q", "update")
        text = _run("apt-cache", "show", "--no-all-versions", META_PACKAGE).decode()
    match = re.search(r"^Depends: (linux-image-\S+)", text, re.MULTILINE)
    if not match:
        raise ImageError(f"{META_PACKAGE} depends on no linux-image package")
    return match.group(1)


def fetch_kernel(cache, say):
    """Unpacks the kernel package below `cache`, without installing it. Returns the folder."""
    have = sorted(glob.glob(os.path.join(cache, "kernel-*", "boot", "vmlinuz-*")))
    if have:
        return os.path.dirname(os.path.dirname(have[-1]))
    package = _kernel_package()
    say(f"Fetching Debian's {package} (some 30 MB, once)")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        os.chmod(work, 0o755)
        _run("apt-get", "-q", "download", package, cwd=work)
        deb = glob.glob(os.path.join(work, "*.deb"))[0]
        tree = os.path.join(work, "tree")
        _run("dpkg-deb", "-x", deb, tree)
        target = os.path.join(cache, f"kernel-{package}")
        os.rename(tree, target)
    return target


def _unpack_payload(image):
    """The ELF file inside a bzImage, where the boot protocol (Documentation/arch/x86/boot.rst) says it is. Under TCG a
    guest that need not unpack itself is at its init in a third of the time."""
    setup_sectors, = struct.unpack_from("<B", image, 0x1F1)
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start:start + length]
    for magic, command in UNPACKERS:
        if payload.startswith(magic) and shutil.which(command[0]):
            # The last four bytes are the size, which some of these complain about: the output is what counts.
            done = subprocess.run(command, input=payload[:-4], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if done.stdout[:4] == b"\x7fELF":
                return done.stdout
    return None


def unpack_kernel(tree):
    """Returns the path of a kernel for -kernel: the unpacked one where we can, else the package's own."""
    packed = glob.glob(os.path.join(tree, "boot", "vmlinuz-*"))[0]
    plain = os.path.join(tree, "boot", "vmlinux")
    if not os.path.exists(plain):
        with open(packed, "rb") as file:
            elf = _unpack_payload(file.read())
        if elf is None:
            return packed
        with open(plain + ".new", "wb") as file:
            file.write(elf)
        os.rename(plain + ".new", plain)
    return plain


def _module_files(tree):
    """Module name -> path, over the whole package."""
    found = {}
    for folder, _, names in os.walk(os.path.join(tree, "lib", "modules")):
        for name in names:
            if ".ko" in name:
                found[name.split(".ko")[0].replace("-", "_")] = os.path.join(folder, name)
    return found


def _module_read(path):
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".zst"):
        return _run("zstd", "-dcq", path)
    return data


def _module_depends(data):
    """The module's own list of what it needs (its .modinfo section), which spares us depmod."""
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    return [name for name in match.group(1).decode().split(",") if name] if match else []


def collect_modules(tree, names):
    """[(file name, content)] in the order in which insmod takes them. What is not there is built into the kernel."""
    files, order, seen = _module_files(tree), [], set()

    def visit(name):
        name = name.replace("-", "_")
        if name in seen or name not in files:
            return
        seen.add(name)
        data = _module_read(files[name])
        for needed in _module_depends(data):
            visit(needed)
        order.append((name + ".ko", data))

    for name in names:
        visit(name)
    return order


def _cpio(entries):
    """The newc format that the kernel unpacks: [(name, mode, content)]."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate(entries + [("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def build_initramfs(cache, tree):
    """Returns the path of an initramfs of busybox, the modules and guest.c, compiled here. The path names its content:
    a snapshot belongs to exactly one."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ImageError("busybox is missing (package busybox-static)")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        program = os.path.join(work, "guest")
        _run(os.environ.get("CC", "gcc"), "-static", "-O2", "-Wall", "-o", program, os.path.join(HERE, "guest.c"))
        modules = collect_modules(tree, MODULES)
        entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in ("bin", "dev", "proc", "modules")]
        entries += [
            ("init", stat.S_IFREG | 0o755, _read(os.path.join(HERE, "init"))),
            ("guest", stat.S_IFREG | 0o755, _read(program)),
            ("bin/busybox", stat.S_IFREG | 0o755, _read(busybox)),
            ("modules/order", stat.S_IFREG | 0o644, "".join(name + "\n" for name, _ in modules).encode()),
        ]
        entries += [(f"modules/{name}", stat.S_IFREG | 0o644, data) for name, data in modules]
        archive = _cpio(entries)
    path = os.path.join(cache, f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}")
    if not os.path.exists(path):
        for old in glob.glob(os.path.join(cache, "initramfs-*")):
            os.unlink(old)
        with open(path + ".new", "wb") as file:
            file.write(archive)
        os.rename(path + ".new", path)
    return path
