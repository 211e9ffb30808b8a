"""Programs of Debian packages that tests run: on the path, or else unpacked into the cache."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
_FAKETIME = "usr/lib/*/faketime/libfaketime.so.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perpflow"


def program(name: str) -> Path:
    """Skips, which CI does not allow, where it is not to be had."""
    installed = shutil.which(name)
    if installed is not None:
        return Path(installed)
    return unpacked(PACKAGES[name]) / "usr" / "bin" / name


def faketime() -> Path:
    """The library that, preloaded, gives a process another clock."""
    (library,) = unpacked("libfaketime").glob(_FAKETIME)
    return library


def unpacked(package: str) -> Path:
    """The folder with the package's files: nothing is installed, no service started."""
    folder = CACHE / f"debian-{package}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(package, folder)
    return folder


def _fetch(package: str, folder: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip(f"needs Debian's package {package}")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    problem = ""
    for before in ([], ["apt-get", "update"]):  # a new machine has no list of packages
        if before:
            subprocess.run(before, capture_output=True)
        done = subprocess.run(
            ["apt-get", "download", "-o", "APT::Sandbox::User=root", package],
            cwd=partial,
            capture_output=True,
            text=True,
        )
        problem = done.stderr
        if done.returncode == 0:
            break
    else:
        pytest.skip(f"needs Debian's package {package}: {problem}")
    (archive,) = partial.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
    archive.unlink()
    partial.rename(folder)
