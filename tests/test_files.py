"""Tests for L{amphora.files}; a disk that is really full is in `tests.integration.test_full_disk`."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from amphora.files import (
    beside,
    file_mark,
    make_directory,
    on_memory_file_system,
    remove_unfinished,
    rename_synced,
    replace_file,
    sync_directory,
    write_synced,
)
from amphora.testing.fakes import full_disk


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class FileTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "file"
        self.addCleanup(os.umask, os.umask(0o022))


class ReplaceTests(FileTestCase):
    """Writing files whole."""

    def test_new(self) -> None:
        """A file is made with the content and the rights asked for, whatever the umask."""
        os.umask(0o077)
        replace_file(self.path, b"one", 0o644)
        self.assertEqual((b"one", 0o644), (self.path.read_bytes(), mode(self.path)))
        os.umask(0)
        replace_file(self.path, b"")
        self.assertEqual((b"", 0o600), (self.path.read_bytes(), mode(self.path)))
        self.assertEqual(["file"], os.listdir(self.directory))

    def test_mark(self) -> None:
        """A file that was replaced has another mark, though it holds the same; one that was not has the same."""
        replace_file(self.path, b"one")
        mark = file_mark(self.path)
        self.assertEqual(mark, file_mark(str(self.path)))
        replace_file(self.path, b"one")
        self.assertNotEqual(mark, file_mark(self.path))
        self.path.unlink()
        self.assertRaises(FileNotFoundError, file_mark, self.path)

    def test_readers_keep_the_old_one(self) -> None:
        """Whoever has the old file open goes on reading that one."""
        replace_file(self.path, b"a long old one")
        with open(self.path, "rb") as reader:
            replace_file(self.path, b"new")
            self.assertEqual(b"a long old one", reader.read())
        self.assertEqual(b"new", self.path.read_bytes())

    def test_no_room(self) -> None:
        """A disk that takes a part only leaves the old file, and nothing beside it."""
        replace_file(self.path, b"old")
        with full_disk(100):
            error = self.assertRaises(OSError, replace_file, self.path, b"x" * 1000)
        self.assertEqual(errno.EFBIG, error.errno)
        self.assertEqual(b"old", self.path.read_bytes())
        self.assertEqual(["file"], os.listdir(self.directory))

    def test_name_taken(self) -> None:
        """A name that cannot be taken raises the system's error, and nothing is left beside it."""
        self.path.mkdir()
        self.assertRaises(OSError, replace_file, self.path, b"x")
        self.assertEqual(["file"], os.listdir(self.directory))

    def test_no_directory(self) -> None:
        """A directory that is not there is not made."""
        self.assertRaises(FileNotFoundError, replace_file, self.directory / "no" / "file", b"x")
        self.assertEqual([], os.listdir(self.directory))

    def test_leftover(self) -> None:
        """What an agent that was killed left unfinished, a link even, is in nobody's way."""
        other = self.directory / "other"
        other.write_bytes(b"other")
        beside(self.path).symlink_to(other)
        replace_file(self.path, b"new")
        self.assertEqual((b"new", b"other"), (self.path.read_bytes(), other.read_bytes()))
        self.assertFalse(self.path.is_symlink())

    def test_write_replaces_nothing_that_is_open(self) -> None:
        """A file that is made anew is another file than the one that was there."""
        write_synced(self.path, b"one", 0o644)
        number = self.path.stat().st_ino
        with open(self.path, "rb"):
            write_synced(self.path, b"two")
        self.assertNotEqual(number, self.path.stat().st_ino)
        self.assertEqual(0o600, mode(self.path))

    def test_rename(self) -> None:
        """A file takes another's place."""
        self.path.write_bytes(b"old")
        source = self.directory / "source"
        source.write_bytes(b"new")
        rename_synced(source, self.path)
        self.assertEqual(b"new", self.path.read_bytes())
        self.assertFalse(source.exists())

    def test_descriptors(self) -> None:
        """No file stays open, neither after a success nor after a failure."""
        before = os.listdir("/proc/self/fd")
        replace_file(self.path, b"x")
        with full_disk():
            self.assertRaises(OSError, replace_file, self.path, b"x")
        self.assertRaises(OSError, sync_directory, self.path)
        self.assertEqual(len(before), len(os.listdir("/proc/self/fd")))


class DirectoryTests(FileTestCase):
    """Making directories, and what is cleared out of them."""

    def test_make(self) -> None:
        """A directory is for us alone; one that is there stays as it is."""
        directory = self.directory / "new"
        make_directory(directory)
        self.assertEqual(0o700, mode(directory))
        directory.chmod(0o755)
        make_directory(directory)
        self.assertEqual(0o755, mode(directory))

    def test_make_fails(self) -> None:
        """No parents are made."""
        self.assertRaises(FileNotFoundError, make_directory, self.directory / "no" / "directory")

    def test_remove_unfinished(self) -> None:
        """Only what was being made goes away."""
        for name in (".a.pem.new", ".haproxy.cfg.new", "a.pem", "a.pem.new", ".new", ".hidden"):
            (self.directory / name).touch()
        self.assertEqual(".file.new", beside(self.path).name)
        remove_unfinished(self.directory)
        self.assertEqual([".hidden", ".new", "a.pem", "a.pem.new"], sorted(os.listdir(self.directory)))


# As Linux writes it for a machine whose early user space mounted /run before the root.
MACHINE = """\
22 61 0:21 / /proc rw,nosuid shared:13 - proc proc rw
24 61 0:5 / /dev rw,nosuid shared:2 master:1 - devtmpfs devtmpfs rw,size=4096k
25 24 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw
26 61 0:24 / /run rw,nosuid shared:12 - tmpfs tmpfs rw,mode=755
61 1 253:0 / / rw,relatime shared:1 - xfs /dev/vda1 rw
80 61 0:40 / /var/lib/octavia/certs rw - ramfs ramfs rw
81 61 253:1 / /srv/with\\040blank rw - ext4 /dev/vdb rw
82 81 0:41 / /srv/with\\040blank/in\\134side\\011\\043 rw - tmpfs tmpfs rw
83 61 0:42 / /srv/\u20ac\u00fc\u00a0x rw - tmpfs tmpfs rw
90 61 0:43 / /over/disk rw - ext4 /dev/vdc rw
91 90 0:44 / /over/disk rw - tmpfs tmpfs rw
92 61 0:45 / /over/memory rw - tmpfs tmpfs rw
93 92 253:2 / /over/memory rw - ext4 /dev/vdd rw
94 61 0:46 / /under/a/memory rw - tmpfs tmpfs rw
95 61 253:3 / /under/a rw - ext4 /dev/vde rw
"""


class MemoryFileSystemTests(FileTestCase):
    """Where keys may lie."""

    def told(self, table: str, path: str) -> bool:
        self.path.write_text(table, "utf-8")
        return on_memory_file_system(Path(path), self.path)

    def test_machine(self) -> None:
        """A path is on the nearest mount above it."""
        for path, memory in (
            ("/", False),
            ("/var/lib/octavia", False),
            ("/var/lib/octavia/certs", True),
            ("/var/lib/octavia/certs/not/there/yet", True),
            ("/var/lib/octavia/certs-of-others", False),
            ("/run", True),
            ("/run/x", True),
            ("/runner", False),
            ("/dev/x", False),
            ("/dev/shm/x", True),
        ):
            self.assertEqual(memory, self.told(MACHINE, path), path)

    def test_escapes(self) -> None:
        """Blanks and the like are escaped in the table; all other letters are as they are."""
        for path, memory in (
            ("/srv/with blank/x", False),
            ("/srv/with blank/in\\side\t#/x", True),
            ("/srv/with\\040blank/in\\134side\\011\\043/x", False),
            ("/srv/\u20ac\u00fc\u00a0x/y", True),
        ):
            self.assertEqual(memory, self.told(MACHINE, path), path)

    def test_bytes_that_are_no_text(self) -> None:
        """A mount point that is not UTF-8 is a mount point all the same."""
        self.path.write_bytes(b"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / /a\xff rw - tmpfs x rw\n")
        self.assertTrue(on_memory_file_system(Path(os.fsdecode(b"/a\xff/b")), self.path))

    def test_overmounts(self) -> None:
        """What is hidden under a later mount does not count, on the same place or above it."""
        for path, memory in (
            ("/over/disk/x", True),
            ("/over/memory/x", False),
            ("/under/a/memory/x", False),
        ):
            self.assertEqual(memory, self.told(MACHINE, path), path)

    def test_roots(self) -> None:
        """A root that is mounted on itself, that has been mounted over, or that is not in the table."""
        self.assertTrue(self.told("1 1 0:2 / / rw - tmpfs x rw\n", "/x"))
        self.assertFalse(self.told("1 1 0:2 / / rw - tmpfs x rw\n5 1 8:1 / / rw - ext4 x rw\n", "/x"))
        self.assertTrue(self.told("9 5 0:3 / /tmp rw - tmpfs x rw\n", "/tmp/x"))
        self.assertFalse(self.told("9 5 0:3 / /tmp rw - tmpfs x rw\n", "/x"))
        self.assertFalse(self.told("", "/x"))

    def test_links(self) -> None:
        """A link is where it leads to."""
        link = self.directory / "link"
        link.symlink_to("/run")
        self.path.write_text(MACHINE)
        self.assertTrue(on_memory_file_system(link / "x", self.path))

    def test_this_machine(self) -> None:
        """This machine's own table can be read; /proc is no place for files."""
        self.assertFalse(on_memory_file_system(Path("/proc/self")))
        self.assertIsInstance(on_memory_file_system(self.directory), bool)
