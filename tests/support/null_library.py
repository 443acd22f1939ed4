"""An ELF shared library whose functions all return zero, made without a compiler.

TensorRT's Python bindings are linked against libraries that the wheel does not bring. With such
stand-ins the bindings can be imported, and so looked at, on any machine.

Layout: the first page holds headers, hash table, symbols, names and the code, readable and
executable; the second the dynamic section, which the loader writes to. Formats: System V ABI,
chapters 4 and 5.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Sequence

_MACHINES = {
    # e_machine, and the code of `return 0;`
    "x86_64": (62, bytes.fromhex("31c0c3")),  # xor eax, eax; ret
    "aarch64": (183, bytes.fromhex("000080d2c0035fd6")),  # mov x0, #0; ret
}
_PAGE = 0x10000  # the largest page size of either machine
_LOAD, _DYNAMIC = 1, 2
_HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 4, 5, 6, 10, 11, 14
_GLOBAL_FUNCTION = 0x12


def null_library(soname: str, functions: Sequence[str]) -> bytes:
    """The library ``soname`` with ``functions``, for this machine.

    Raises:
        KeyError: for another processor than x86-64 and arm64.
    """
    machine, code = _MACHINES[platform.machine()]
    names, at = b"\0", {}
    for name in (soname, *functions):
        at[name] = len(names)
        names += name.encode() + b"\0"

    begin = 64 + 3 * 56
    # One bucket, whose chain goes through all symbols; the first symbol is the undefined one.
    chain = [0, *range(2, len(functions) + 1), 0] if functions else [0]
    table = struct.pack(f"<{3 + len(chain)}I", 1, len(chain), min(1, len(functions)), *chain)
    table += bytes(-len(table) % 8)
    symbols_at = begin + len(table)
    names_at = symbols_at + 24 * len(chain)
    code_at = names_at + len(names) + (-(names_at + len(names)) % 8)
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", at[name], _GLOBAL_FUNCTION, 0, 1, code_at, len(code))
        for name in functions
    )
    dynamic = b"".join(
        struct.pack("<QQ", tag, value)
        for tag, value in (
            (_SONAME, at[soname]),
            (_HASH, begin),
            (_STRTAB, names_at),
            (_SYMTAB, symbols_at),
            (_STRSZ, len(names)),
            (_SYMENT, 24),
            (0, 0),
        )
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        3,  # ET_DYN
        machine,
        1,
        0,
        64,  # program headers follow
        0,
        0,
        64,
        56,
        3,
        64,
        0,
        0,
    )
    text = code_at + len(code)
    programs = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, align)
        for kind, flags, offset, size, align in (
            (_LOAD, 5, 0, text, _PAGE),  # read, execute
            (_LOAD, 6, _PAGE, len(dynamic), _PAGE),  # read, write
            (_DYNAMIC, 6, _PAGE, len(dynamic), 8),
        )
    )
    head = header + programs + table + symbols + names
    return (head.ljust(code_at, b"\0") + code).ljust(_PAGE, b"\0") + dynamic
