"""A JSON file and the tensors that belong to it, in one folder, always of the same moment.

The tensors go into a new file named after their digest. Then the JSON file, which names that file,
is replaced. Before this step the old pair is valid, after it the new pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hilum.errors import HilumError
from hilum.files import write_atomically
from trainer.errors import CheckpointError, CheckpointWriteError
from trainer.outputs import writing

T = TypeVar("T")
_TENSORS = "weights"  # the JSON's key for the file of tensors


def write(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write ``values`` to ``path`` (``….json``) and ``tensors`` beside it, replacing the old pair.

    Raises:
        CheckpointWriteError: the disk is full or refuses. The old pair is unchanged.
    """
    data = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
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


def read(path: Path, parse: Callable[[dict[str, Any]], T]) -> tuple[T, dict[str, Tensor]]:
    """The values of ``path``, made by ``parse`` from the JSON, and the tensors.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    folder = path.parent
    try:
        values = json.loads(path.read_bytes())
        stored = values.pop(_TENSORS)
        if Path(stored["file"]).name != stored["file"]:
            raise ValueError(stored["file"])  # it leads out of the folder
        data = path.with_name(stored["file"]).read_bytes()
        if hashlib.sha256(data).hexdigest() == stored["sha256"]:
            return parse(values), load_tensors(data)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {Path(error.filename).name}.") from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from None
    except (HilumError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is damaged ({type(error).__name__}).") from None
    raise CheckpointError(f"{folder} is damaged: the weights have another digest.")
