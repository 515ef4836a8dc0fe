"""PTX text as a list of instructions: PTX ISA, "Syntax" and "Directives"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptx_emulator.faults import UnknownInstruction

_LABEL = re.compile(r"([\w$]+):")
_DEBUG = re.compile(r"\.(loc|file)\b")


@dataclass(frozen=True)
class Instruction:
    """One statement."""

    opcode: str
    """With its modifiers, as ``add.s32``."""
    operands: tuple[str, ...]
    guard: str | None
    """The predicate of ``@p`` or ``@!p``."""
    negated: bool
    target: int | None
    """Where a branch leads."""
    text: str


@dataclass(frozen=True)
class Program:
    """One kernel."""

    name: str
    threads: int
    """Threads a block, of one dimension."""
    parameters: dict[str, int]
    """Position of each parameter by its name."""
    shared: str
    """The symbol of dynamic shared memory; empty without."""
    registers: dict[str, int]
    """Bytes of a register, by its name or by the prefix of a numbered family; 0 for predicates."""
    instructions: tuple[Instruction, ...]

    def width(self, register: str) -> int:
        """Bytes of a register; 0 for a predicate."""
        found = self.registers.get(register)
        if found is None:
            found = self.registers.get(re.sub(r"\d+$", "", register))
        if found is None:
            raise UnknownInstruction(f"{register} is declared nowhere")
        return found


def operands(text: str) -> tuple[str, ...]:
    """Split at the commas that are in no brackets."""
    found, depth, word = [], 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            found.append(word.strip())
            word = ""
        else:
            word += letter
    return (*found, word.strip()) if word.strip() else tuple(found)


def _declare(registers: dict[str, int], statement: str) -> None:
    _, kind, names = statement.split(None, 2)
    width = 0 if kind == ".pred" else int(re.sub(r"\D", "", kind)) // 8
    for name in names.split(","):
        registers[re.sub(r"<\d+>$", "", name.strip())] = width


def parse(text: str) -> Program:
    """Read the one kernel of a PTX module.

    Labels are of the scope in braces that they stand in, as inline assembly relies on. Registers are too, but
    one name is taken to have one type throughout.

    Raises:
        UnknownInstruction: a directive or a branch that is not understood.
    """
    text = re.sub(r"//[^\n]*", "", text)
    entry = re.search(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text)
    if entry is None or text.count(".entry") != 1:
        raise UnknownInstruction("expected PTX of exactly one kernel")
    names = [line.split()[-1] for line in entry[2].split(",") if line.strip()]
    parameters = {re.sub(r"\[\d+\]$", "", name): position for position, name in enumerate(names)}
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", entry[3])
    if threads is None:
        raise UnknownInstruction(f"{entry[1]} does not say how many threads it has")
    symbol = re.search(r"\.extern\s+\.shared\s[^;]*?([\w$]+)\s*\[\]", text[: entry.start()])

    registers: dict[str, int] = {}
    found: list[tuple[str, tuple[int, ...]]] = []  # each statement and the scopes around it
    labels: dict[tuple[int, str], int] = {}
    scopes: tuple[int, ...] = (0,)
    count, at = 0, entry.end()
    while scopes:
        if text[at].isspace():
            at += 1
            continue
        label = _LABEL.match(text, at)
        if text[at] == "{":
            count += 1
            scopes, at = (*scopes, count), at + 1
        elif text[at] == "}":
            scopes, at = scopes[:-1], at + 1
        elif label is not None:
            labels[scopes[-1], label[1]] = len(found)
            at = label.end()
        elif _DEBUG.match(text, at):
            at = text.index("\n", at)  # of the debugger
        else:
            end = text.index(";", at)
            statement, at = " ".join(text[at:end].split()), end + 1
            if statement.startswith(".reg"):
                _declare(registers, statement)
            elif statement.startswith("."):
                if not statement.startswith(".pragma"):  # a hint for ptxas, as how far to unroll
                    raise UnknownInstruction(statement)
            elif statement:
                found.append((statement, scopes))

    def branch(opcode: str, words: tuple[str, ...], around: tuple[int, ...]) -> int | None:
        if not opcode.startswith("bra"):
            return None
        for scope in reversed(around):
            if (scope, words[0]) in labels:
                return labels[scope, words[0]]
        raise UnknownInstruction(f"{opcode} {words[0]}: no such label")

    instructions = []
    for statement, around in found:
        guarded = re.match(r"@(!?)(%?[\w$]+)\s+(.*)$", statement)
        body = guarded[3] if guarded else statement
        opcode, _, rest = body.partition(" ")
        words = operands(rest)
        instructions.append(
            Instruction(
                opcode=opcode,
                operands=words,
                guard=guarded[2] if guarded else None,
                negated=bool(guarded and guarded[1]),
                target=branch(opcode, words, around),
                text=statement,
            )
        )
    return Program(
        name=entry[1],
        threads=int(threads[1]),
        parameters=parameters,
        shared=symbol[1] if symbol else "",
        registers=registers,
        instructions=tuple(instructions),
    )
