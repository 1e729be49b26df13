"""What root makes in a directory of the service's user belongs to that user: the service must read and replace it.

The rule: below a data directory everything that is root's is given to the directory's owner. Where root owns it itself,
or whoever runs is not root, nothing is done. Files of other users stay theirs.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

ROOT = 0


def belong_to_parent(path: Path) -> None:
    """Give what root has made to the owner of the directory that it is in. Raises OSError."""
    if os.geteuid() == ROOT:
        owner = path.parent.stat()
        if owner.st_uid != ROOT and path.lstat().st_uid == ROOT:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def hand_over(directory: Path) -> None:
    """Give everything of root's below `directory` to its owner; follows no symbolic link. Raises OSError.

    The owner may change the tree meanwhile, and gets nothing by it: names are looked up in directories that are open,
    and a file that has another name somewhere is left alone.
    """
    if os.geteuid() != ROOT or (owner := directory.stat()).st_uid == ROOT:
        return
    for _, directories, files, descriptor in os.fwalk(directory):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                is_linked = not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1
                if found.st_uid == ROOT and not is_linked:
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)


@contextlib.contextmanager
def handing_over(directory: Path) -> Iterator[None]:
    """`hand_over` when the block ends, however it does; a directory that is not there is none of the service's."""
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            hand_over(directory)
