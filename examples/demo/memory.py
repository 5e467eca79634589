# SPDX-License-Identifier: MIT
"""Guest memory as files: sparse copies, and the one byte that the last run flips."""

import errno
import os

GUEST_PAGE_MAGIC = 0x306F6D6564427050  # as in guest.c
PAGE = 4096
CHUNK = 4 << 20


def extents(fd):
    """[(offset, end)] of what is not a hole."""
    found, size, at = [], os.fstat(fd).st_size, 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def copy_sparse(source_fd, target_fd):
    """Copies what is not a hole, as `cp --sparse=auto` does, all of it inside the kernel. Returns the bytes copied."""
    total = 0
    os.ftruncate(target_fd, os.fstat(source_fd).st_size)
    for start, end in extents(source_fd):
        os.lseek(target_fd, start, os.SEEK_SET)
        at = start
        while at < end:
            n = os.sendfile(target_fd, source_fd, at, min(CHUNK, end - at))
            if n == 0:
                raise OSError(errno.EIO, "the memory file became shorter")
            at += n
        total += end - start
    return total


def copy_without_zeros(source_fd, target_path):
    """Writes the memory into a file that has holes where the memory is zero, whatever the source is made of. This is
    the snapshot that both restores start from. Returns the number of pages with data."""
    size, pages, zero = os.fstat(source_fd).st_size, 0, bytes(PAGE)
    with open(target_path, "wb", buffering=0) as target:
        target.truncate(size)
        for start, end in extents(source_fd):
            for at in range(start, end, CHUNK):
                data = os.pread(source_fd, min(CHUNK, end - at), at)
                pages += _write_pages(target.fileno(), data, at, zero)
        os.fsync(target.fileno())
    return pages


def _write_pages(fd, data, at, zero):
    """Writes the runs of non-zero pages of `data`. Returns how many pages that were."""
    pages, run = 0, None
    for offset in range(0, len(data) + PAGE, PAGE):
        is_data = offset < len(data) and data[offset:offset + PAGE] != zero
        if is_data:
            pages += 1
            run = offset if run is None else run
        elif run is not None:
            os.pwrite(fd, memoryview(data)[run:offset], at + run)
            run = None
    return pages


def find_guest_page(fd, seed):
    """The offset of a page of the memory that the guest filled and will check: the middle one."""
    magic, found = (GUEST_PAGE_MAGIC ^ seed).to_bytes(8, "little"), []
    for start, end in extents(fd):
        for at in range(start, end, PAGE):
            if os.pread(fd, len(magic), at) == magic:
                found.append(at)
    if not found:
        raise OSError(errno.ENOENT, "no page of the guest's program is in the snapshot")
    return found[len(found) // 2]


def flip_byte(path, seed):
    """Changes one bit of one byte in the middle of one of the guest's pages. Returns its offset."""
    fd = os.open(path, os.O_RDWR)
    try:
        offset = find_guest_page(fd, seed) + PAGE // 2
        byte = os.pread(fd, 1, offset)[0]
        os.pwrite(fd, bytes([byte ^ 1]), offset)
        return offset
    finally:
        os.close(fd)


def drop_from_page_cache(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def open_memfd_of(pid, name, size):
    """Opens another process's memfd whose name starts with `name` and whose size is `size`, by its link in /proc."""
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        path = os.path.join(folder, number)
        try:
            if os.readlink(path).startswith(f"/memfd:{name}") and os.stat(path).st_size == size:
                return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
    raise OSError(errno.ENOENT, f"process {pid} holds no memory named {name}")
