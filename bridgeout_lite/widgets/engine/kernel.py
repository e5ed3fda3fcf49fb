r"""The matrix kernel of the page: its source, and the assembler that makes its bytes.

``python -m bridgeout_lite.widgets.engine.kernel`` writes ``kernel.js`` anew; a test holds that it is what stands there.

The kernel is ``multiply(a, b, c, rows, columns, inner, a_row, a_step, b_row, c_row, add)``, all of them 32-bit
integers: :math:`C = AB` in float32, or :math:`C + AB` if ``add`` is not zero. The first three are addresses and the
last but ``add`` distances, in bytes: element (i, k) of A stands at ``a + i a_row + k a_step``, so that a transposed A
costs nothing; rows of B and C are contiguous. ``rows`` is a multiple of 4, ``columns`` of 8, ``inner`` at least 1: what
is left over at the edges is computed in JavaScript. A tile of 4 x 8 of C stays in registers while k runs.
"""

import base64
from collections.abc import Iterator
from pathlib import Path

PARAMETERS = ("a", "b", "c", "rows", "columns", "inner", "a_row", "a_step", "b_row", "c_row", "add")
INTEGERS = ("j", "k", "b_tile", "b_now", "c_tile", "c_now", "a0", "a1", "a2", "a3")
ROWS = range(4)
VECTORS = ("left", "b0", "b1", *(f"c{row}{half}" for row in ROWS for half in (0, 1)))
NAMES = {name: number for number, name in enumerate((*PARAMETERS, *INTEGERS, *VECTORS))}

I32, V128, EMPTY = 0x7F, 0x7B, 0x40
SIMD = {"load": 0, "splat": 9, "store": 11, "zero": 12, "plus": 228, "times": 230}
PLAIN = {
    "loop": bytes([0x03, EMPTY]),
    "if": bytes([0x04, EMPTY]),
    "else": b"\x05",
    "end": b"\x0b",
    "again_if": bytes([0x0D, 0]),  # back to the top of the innermost loop
    "get": b"\x20",
    "set": b"\x21",
    "number": b"\x41",
    "add": b"\x6a",
    "subtract": b"\x6b",
    "below": b"\x49",
}


def number(value: int) -> bytes:
    """An unsigned LEB128 number."""
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + number(high) if high else bytes([low])


def instruction(text: str) -> bytes:
    """The bytes of one instruction: a word, and for some of them an argument (a local's name, or a small number)."""
    word, _, argument = text.partition(" ")
    if word in SIMD:
        code = b"\xfd" + number(SIMD[word])
        if word == "zero":
            return code + bytes(16)
        # a memory access says how far it is aligned (4 bytes) and an offset
        return code + b"\x02" + number(int(argument or 0)) if word in ("load", "splat", "store") else code
    if word in ("get", "set"):
        return PLAIN[word] + number(NAMES[argument])
    if word == "number":  # signed LEB128: one byte up to 63
        return PLAIN[word] + bytes([int(argument)])
    return PLAIN[word]


def move(pointer: str, by: str) -> Iterator[str]:
    yield from (f"get {pointer}", by, "add", f"set {pointer}")


def tile() -> Iterator[str]:
    """One tile of 4 x 8: start from zero or from C, run over k, store."""
    yield from ("get c_tile", "set c_now", "get a", "set a0")
    for row in ROWS[1:]:
        yield from (f"get a{row - 1}", "get a_row", "add", f"set a{row}")
    yield from ("get add", "if")
    for row in ROWS:
        yield from ("get c_now", "load 0", f"set c{row}0", "get c_now", "load 16", f"set c{row}1")
        yield from move("c_now", "get c_row")
    yield "else"
    for row in ROWS:
        yield from ("zero", f"set c{row}0", "zero", f"set c{row}1")
    yield from ("end", "get b_tile", "set b_now", "get inner", "set k", "loop")
    yield from ("get b_now", "load 0", "set b0", "get b_now", "load 16", "set b1")
    for row in ROWS:
        yield from (f"get a{row}", "splat 0", "set left")
        for half in (0, 1):
            yield from (f"get c{row}{half}", "get left", f"get b{half}", "times", "plus", f"set c{row}{half}")
        yield from move(f"a{row}", "get a_step")
    yield from move("b_now", "get b_row")
    yield from ("get k", "number 1", "subtract", "set k", "get k", "again_if", "end")
    yield from ("get c_tile", "set c_now")
    for row in ROWS:
        yield from ("get c_now", f"get c{row}0", "store 0", "get c_now", f"get c{row}1", "store 16")
        yield from move("c_now", "get c_row")


def kernel() -> Iterator[str]:
    """The whole function: tiles along a row of tiles, then the next four rows."""
    yield from ("loop", "get c", "set c_tile", "get b", "set b_tile", "number 0", "set j", "loop")
    yield from tile()
    yield from (*move("c_tile", "number 32"), *move("b_tile", "number 32"), *move("j", "number 8"))
    yield from ("get j", "get columns", "below", "again_if", "end")
    for _ in ROWS:
        yield from (*move("a", "get a_row"), *move("c", "get c_row"))
    yield from ("get rows", "number 4", "subtract", "set rows", "get rows", "again_if", "end", "end")


def assemble() -> bytes:
    """The module: it imports ``env.memory`` and exports ``multiply``."""

    def sized(content: bytes) -> bytes:
        return number(len(content)) + content

    def section(kind: int, *entries: bytes) -> bytes:
        return bytes([kind]) + sized(number(len(entries)) + b"".join(entries))

    locals_ = b"".join([number(2), number(len(INTEGERS)), bytes([I32]), number(len(VECTORS)), bytes([V128])])
    return b"".join(
        [
            b"\0asm\1\0\0\0",
            section(1, b"\x60" + sized(bytes([I32] * len(PARAMETERS))) + b"\0"),  # a function that returns nothing
            section(2, sized(b"env") + sized(b"memory") + b"\x02\0\x01"),  # a memory of at least one page
            section(3, b"\0"),
            section(7, sized(b"multiply") + b"\0\0"),
            section(10, sized(locals_ + b"".join(map(instruction, kernel())))),
        ]
    )


def module() -> str:
    """The text of ``kernel.js``."""
    code = assemble()
    return (
        f"// Written by kernel.py, which has the source: {len(code)} bytes of WebAssembly. A test compares the two.\n"
        f'export const KERNEL =\n  "{base64.b64encode(code).decode()}";\n'
    )


if __name__ == "__main__":
    (Path(__file__).parent / "kernel.js").write_text(module(), encoding="utf-8")
