"""Opaque, time-ordered ids of the rows that hilum creates."""

from __future__ import annotations

import secrets
import time
from typing import Literal

Kind = Literal["st", "im", "jb", "key", "dl", "cp"]


def new_id(kind: Kind) -> str:
    """A new id such as ``st_0199d0c1b7a47f6e8a0b3c5d7e9f1a2b``.

    48 bits of milliseconds, then 80 random bits. Ids sort by creation time, so that indexes stay
    compact and keyset cursors work, and reveal nothing about the patient.
    """
    value = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return f"{kind}_{value:032x}"
