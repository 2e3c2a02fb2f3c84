"""The name of a run, made of all that decides its numbers."""

from __future__ import annotations

import hashlib
import json

from jaxinit.compare.store.settings import Settings


def run_id(settings: Settings, scheme: str, learning_rate: float, seed: int) -> str:
    """The name of a run: the same in every sweep, and whatever else is run there.

    Args:
        settings: of the sweep; what they mark as deciding is in the name.
        scheme: its text.
        learning_rate: of the run.
        seed: of the run.

    Returns:
        16 hexadecimal digits.
    """
    content = {
        **settings.deciding(),
        "scheme": scheme,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
