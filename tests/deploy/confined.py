"""A process as a container of the compose file has it, made of the kernel's parts: a root file
system that is read-only, but for one folder, a user without rights, and no capabilities.

Needs root, as an engine does. The network is the machine's.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc")


def confined(
    command: Sequence[str], *, root: Path, shown: Sequence[Path], state: Path, home: str, uid: int
) -> list[str]:
    """`command` in such a place, as one process: signals to it are the command's.

    `root`: an empty folder to build it in; `shown`: what can be read there, under its own path,
    beside the system and this Python; `state`: what is seen as `home`, and can be written.
    """
    readable = [*_SYSTEM, sys.base_prefix, *map(str, shown)]
    lines = [
        "umask 022",
        "mount --make-rprivate /",
        f"mount -t tmpfs -o mode=755 none {root}",
        *(line for path in readable for line in _bound(root, path)),
        *(
            f"mkdir {root}/{name} && mount --rbind /{name} {root}/{name}"
            for name in ("dev", "proc")
        ),
        f"mkdir -p {root}{home} && mount --bind {shlex.quote(str(state))} {root}{home}",
        f"mount -o remount,ro {root}",
        f"exec chroot {root} setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs "
        f'--bounding-set=-all --inh-caps=-all sh -c \'cd {home} && exec "$@"\' sh "$@"',
    ]
    return ["unshare", "--mount", "sh", "-ec", "\n".join(lines), "sh", *command]


def _bound(root: Path, path: str) -> list[str]:
    target = f"{root}{path}"
    return [
        f"mkdir -p {target}",
        f"mount --bind {path} {target}",
        f"mount -o remount,bind,ro {target}",
    ]
