"""Opaque, time-ordered ids for the studies, images, jobs and keys that hilum creates."""

from __future__ import annotations

import secrets
import time
from typing import Literal

Kind = Literal["st", "im", "jb", "key", "dl", "cp", "wk"]


def new_id(kind: Kind) -> str:
    """Create an id such as ``st_0199d0c1b7a47f6e8a0b3c5d7e9f1a2b``.

    It consists of 48 bits of milliseconds and 80 random bits. It sorts by creation time, which
    keeps indexes compact and keyset cursors possible, and says nothing about the patient.
    """
    value = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return f"{kind}_{value:032x}"
