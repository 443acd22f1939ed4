"""Tensors and the JSON that speaks of them, in one folder, always of the same moment.

The tensors go into a new file named after their digest; replacing the JSON, which names that file,
is the one step that counts. Before it the old pair stands, after it the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hilum.files import write_atomically
from trainer.errors import CheckpointError, CheckpointWriteError
from trainer.outputs import writing

_TENSORS = "weights"  # the JSON's key for the file of tensors


def write(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Put ``values`` at ``path`` (``….json``) and ``tensors`` beside it, replacing what was there.

    Raises:
        CheckpointWriteError: the disk is full or refuses; the old pair is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save_tensors(plain)
    digest = hashlib.sha256(data).hexdigest()
    file = path.with_name(f"{path.stem}-{digest[:16]}.safetensors")
    text = json.dumps({_TENSORS: {"file": file.name, "sha256": digest}, **values}, indent=2)
    with writing(path, CheckpointWriteError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
        write_atomically(path, text.encode())
        for old in path.parent.glob(f"{path.stem}-*.safetensors"):
            if old != file:
                old.unlink()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The values and tensors of ``path``.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_bytes())
        stored = values.pop(_TENSORS)
        data = tensors_file(path, stored["file"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != stored["sha256"]:
            raise CheckpointError(f"{path.parent} is damaged: the weights have another digest.")
        return values, load_tensors(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {Path(error.filename).name}.") from None
    except OSError as error:
        raise CheckpointError(f"{path.parent} cannot be read: {error.strerror}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.parent} is damaged ({type(error).__name__}).") from None


def tensors_file(path: Path, name: str) -> Path:
    """The file ``name`` beside ``path``; never one elsewhere.

    Raises:
        ValueError: the name leads out of the folder.
    """
    if Path(name).name != name:
        raise ValueError(name)
    return path.with_name(name)
