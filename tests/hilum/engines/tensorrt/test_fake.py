"""The fake TensorRT has nothing that the real bindings do not have, and takes their arguments."""

from __future__ import annotations

import ast
import enum
import inspect
from typing import Any

import pytest
from support import fake_tensorrt, tensorrt_stubs
from support.fake_cuda import FakeCuda

_OWN = {"State", "state"}


@pytest.mark.parametrize("version", tensorrt_stubs.VERSIONS)
def test_the_fake_is_made_of_the_real_bindings_names(version: str) -> None:
    stub = tensorrt_stubs.classes(tensorrt_stubs.generate(version))
    body = ast.parse(stub.read_text()).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    module = fake_tensorrt.library(FakeCuda())
    kinds = {n: k for n, k in vars(module).items() if isinstance(k, type)} | {
        name: kind for name, kind in vars(type(module)).items() if isinstance(kind, type)
    }
    compared = 0
    for name, kind in kinds.items():
        if issubclass(kind, enum.Enum):
            members = _attributes(classes[name])
            assert set(kind.__members__) <= members, name
            continue
        methods = _methods(classes[name])
        for attribute, value in inspect.getmembers_static(kind):
            if attribute.startswith("_") or attribute in dir(bytes) or attribute == "Severity":
                continue
            assert attribute in methods | {a: [] for a in _attributes(classes[name])}, (
                f"{name}.{attribute}"
            )
            if inspect.isfunction(value):
                ours = [*inspect.signature(value).parameters][1:]
                assert any(ours == theirs[: len(ours)] for theirs in methods[attribute]), (
                    f"{name}.{attribute}{ours} is not one of {methods[attribute]}"
                )
                compared += 1
    assert compared > 20


def _methods(node: ast.ClassDef) -> dict[str, list[list[str]]]:
    """Parameters without self of each overload, by method."""
    found: dict[str, list[list[str]]] = {}
    for part in node.body:
        if isinstance(part, ast.FunctionDef):
            found.setdefault(part.name, []).append([a.arg for a in part.args.args][1:])
    return found


def _attributes(node: ast.ClassDef) -> set[str]:
    return {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def test_the_fake_answers_as_it_was_told() -> None:
    """Its own machinery works: otherwise the failures it plays would prove nothing."""
    module: Any = fake_tensorrt.library(FakeCuda())
    state = module.state
    state.failing["m"] = [False]
    assert state.answer("m", True) is False
    assert state.answer("m", True) is True
