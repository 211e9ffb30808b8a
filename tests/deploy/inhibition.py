"""Which alerts deploy/alertmanager/alertmanager.yml keeps from people, as Alertmanager decides it.

Debian's Alertmanager runs only where its package is installed (it reads a template under /usr), so
the few lines that matter are here; amtool checks the file itself.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from tests.deploy.dockerfile import ROOT

Labels = Mapping[str, str]
_MATCHER = re.compile(r'(\w+) (=~|=) "(.*)"')


@cache
def rules() -> list[dict[str, Any]]:
    text = (ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text()
    found: list[dict[str, Any]] = yaml.safe_load(text)["inhibit_rules"]
    return found


def inhibited(alert: Labels, firing: Sequence[Labels]) -> bool:
    return any(
        _matches(rule["target_matchers"], alert)
        and any(
            _matches(rule["source_matchers"], source)
            and not _matches(rule["target_matchers"], source)
            and all(alert.get(name) == source.get(name) for name in rule.get("equal", ()))
            for source in firing
        )
        for rule in rules()
    )


def _matches(matchers: Sequence[str], labels: Labels) -> bool:
    for matcher in matchers:
        parsed = _MATCHER.fullmatch(matcher)
        assert parsed is not None, matcher
        name, how, wanted = parsed.groups()
        value = labels.get(name, "")
        if not (value == wanted if how == "=" else re.fullmatch(wanted, value)):
            return False
    return True
