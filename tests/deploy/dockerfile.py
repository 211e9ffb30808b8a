"""deploy/Dockerfile, read: its stages and their instructions, as far as ours uses the language."""

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
NAME = re.compile(r"^[A-Z]+ ")


@dataclass
class Stage:
    """`instructions`: (name, the rest of its line), in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]

    def only(self, name: str) -> str:
        (rest,) = self.all(name)
        return rest

    def environment(self) -> dict[str, str]:
        pairs = (pair for rest in self.all("ENV") for pair in rest.split())
        return dict(pair.split("=", 1) for pair in pairs)

    def command(self, name: str) -> list[str]:
        """Of an ENTRYPOINT or CMD in its exec form, also within a HEALTHCHECK."""
        rest = self.only(name)
        found: list[str] = json.loads(rest[rest.index("[") :])
        return found


def stages() -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    found: list[Stage] = []
    for line in re.sub(r"\\\n", "", text).splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].instructions.append((instruction, rest.strip()))
    return found


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a path at the root through; the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(path, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return not ignored
