"""The collectives of a compiled program, and the bytes that they send."""

import math
import re
from typing import NamedTuple


class Collective(NamedTuple):
    """A kind of collective operation."""

    kind: str
    """all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute."""
    group: int
    """Devices that take part in one."""


class Traffic(NamedTuple):
    """How often a collective runs in the program, and how much each device sends."""

    count: int
    sent: float
    """Bytes in all, by the usual ring algorithms."""


KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BYTES = dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1) | dict.fromkeys(("s16", "u16", "bf16", "f16"), 2)
BYTES |= dict.fromkeys(("s64", "u64", "f64"), 8)
"""Bytes of an element by type; 4 of any other type."""
CONTINUED = re.compile("async-collective-done|async_collective_fusion")
"""Matches instructions and computations that continue a collective that was started before."""
INSTRUCTION = re.compile(r"\s*(ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w-]+)\(")
CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")


def collectives(hlo: str) -> dict[Collective, Traffic]:
    """Counts the collectives of a compiled program (`compiled.as_text()`), those in loops times their trip counts.

    A TPU's compiler repeats a collective in every computation that hides it; only its start counts.
    """
    bodies, entry = _computations(hlo)
    devices = re.search(r"^HloModule .*?(?:replica_count=(\d+)|num_partitions=(\d+))", hlo, re.M)
    everyone = math.prod(int(number) for number in devices.groups("1")) if devices else 1
    total: dict[Collective, Traffic] = {}

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            match = INSTRUCTION.match(line)
            if not match:
                continue
            kind = match["op"].removesuffix("-start")
            if kind not in KINDS:
                inner = times * _trips(line, bodies) if kind == "while" else times
                # The branches of a conditional count as if each were taken.
                branches = re.findall(r"[\w.-]+", " ".join(re.findall(r"branch_computations=\{([^}]*)\}", line)))
                for called in [*CALLED.findall(line), *branches]:
                    if not CONTINUED.match(match["name"]) and not CONTINUED.match(called):
                        visit(called, inner)
                continue
            group = _group_size(line, kind, everyone)
            sent = _sent(match["type"], match["op"], group)
            if name.startswith("all-reduce-scatter"):  # each device keeps a part of the sum
                kind, sent = "reduce-scatter", sent / 2
            if group > 1:
                count, before = total.get(Collective(kind, group), (0, 0.0))
                total[Collective(kind, group)] = Traffic(count + times, before + times * sent)

    visit(entry, 1)
    return {message: total[message] for message in sorted(total)}


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by name, and the name of the first one that runs."""
    bodies: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """How often a loop runs, by the compiler's note, or else the bound that its condition compares with."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.-]+)", line)
    text = "\n".join(bodies.get(condition[1], ())) if condition else ""
    return max(map(int, re.findall(r"= s32\[\]\S* constant\((\d+)\)", text)), default=1)


def _group_size(line: str, kind: str, everyone: int) -> int:
    """Devices that take part; `everyone` if no groups are named."""
    if kind == "collective-permute":
        return 2
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return int(iota[1]) if iota else len(listed[1].split(",")) if listed else everyone


def _sent(result: str, operation: str, group: int) -> float:
    """Bytes that a device sends in one collective with a result of this type."""
    sizes = [
        BYTES.get(name, 4) * math.prod(int(size) for size in shape.split(",") if size)
        for name, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    ]
    if operation == "collective-permute-start":  # an operand, its result and two counters
        sizes = sizes[1:2]
    elif operation == "all-gather-start":  # operands, then as many results
        sizes = sizes[len(sizes) // 2 :]
    share = (group - 1) / group
    factors = {"all-reduce": 2 * share, "reduce-scatter": group - 1.0, "collective-permute": 1.0}
    return sum(sizes) * factors.get(operation.removesuffix("-start"), share)
