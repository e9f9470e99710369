"""What is a setting called among others, and which command gives it again?"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence

from mma.pipeline.fitting.cells import RECIPE
from mma.pipeline.fitting.factors import as_typed
from mma.pipeline.reports.pairing import (
    CONDITIONS,
)
from mma.pipeline.reports.records import Recorded


def method_names(settings: Sequence[Recorded], without: str = "") -> dict[str, str]:
    """By setting: the adapter, with those of its own factors that differ between its settings: `mma lam=0.5`; but for
    one factor.
    """
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for setting in settings:
        for name, value in setting.factors.items():
            values[setting.protocol, setting.adapter, name].add(as_typed(value))
    held = ("dataset", "adapter", "protocol", *CONDITIONS, without)
    return {
        setting.id: " ".join(
            [
                setting.adapter,
                *(
                    f"{name}={as_typed(value)}"
                    for name, value in setting.factors.items()
                    if name not in held and len(values[setting.protocol, setting.adapter, name]) > 1
                ),
            ]
        )
        for setting in settings
    }


def command_of(setting: Recorded) -> str | None:
    """The command that gives a row again; None for one that is scored on further caches."""
    if "targets" in setting.factors or not setting.cache:
        return None
    words = ["mma", "ablate", "--cache", setting.cache]
    own = {name: value for name, value in setting.factors.items() if name not in ("dataset", "code")}
    if own["select"] == "none":
        del own["select"]
    words += [f"{name}={_exact(value)}" for name, value in own.items() if value is not None or name not in RECIPE]
    if setting.seeded:
        words.append(f"seed={','.join(map(str, setting.seeds))}")
    return shlex.join(words)


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else as_typed(value)
