"""A seccomp filter for what neither a namespace nor a Landlock rule stops.

Namespaces do not reach everything: vsock leads to the hypervisor from any network namespace, keys
belong to a user, TIOCSTI types into the terminal that the cage shares with its user's shell. And
Landlock's TCP rules look at connect(), which TCP Fast Open goes round. Rules: a filter judges
numbers, never what a pointer points to; a call that it can't judge whole is refused whole
(io_uring, which makes sockets by itself); another architecture's calls end the process, since
each has a second set of numbers for all of this. What is judged is in
`sandbox.launcher.linux.call_rules`. Standard library only: it runs in the launcher.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from . import syscalls
from .call_numbers import ARCHITECTURES, NEWEST, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOTIFY = -1  # instead of an errno: the call waits for whoever has the notification descriptor

_X32_BIT = 0x40000000  # x86_64's second table, in the same architecture
_SOCKET_TYPE = 0xF  # the rest of the argument is flags

# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_AND = 0x54
_ALLOW, _NOTIFY, _REFUSE, _KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
_INSTRUCTION = struct.Struct("=HBBI")
_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class CallRule(NamedTuple):
    """One call that is refused with `number`, or asked about: always, or as one argument's low 32
    bits say. A call may have several rules; the first that fits decides.

    The kernel ignores the high bits of these arguments, so the filter must not look at them.
    """

    call: str
    number: int  # an errno, or NOTIFY
    argument: int = 0
    only: Sequence[int] = ()  # for every other value
    never: Sequence[int] = ()  # for these values
    bits: int = 0  # with any of these bits
    when: tuple[int, int] | None = None  # and only if this other argument has any of these bits
    high: bool = False  # look at the high 32 bits instead: of pointers, both
    pairs: Sequence[tuple[int, int]] = ()  # where the argument before and it are such a pair


def refuse_calls(rules: Iterable[CallRule]) -> None:
    """Refuse `rules` for this process and all it starts, for good.

    Needs PR_SET_NO_NEW_PRIVS. Raises OSError, also for a machine whose numbers are not known.
    """
    syscalls.install_filter(program(_by_call(rules)))


def notify_calls(rules: Iterable[CallRule], *, connections: bool) -> int:
    """Have `rules` asked about for this process and all it starts, for good; return the descriptor
    at which they are (`sandbox.broker.seccomp_notify`).

    `connections`: datagrams to a path need no connect, so unix sockets for datagrams are refused.
    As `refuse_calls`; also raises OSError where somebody else is asked already (EBUSY).
    """
    judged = _by_call(rules)
    if connections:
        judged |= dict.fromkeys(("socket", "socketpair"), _refuse_unix_datagrams())
    return syscalls.install_notifying_filter(program(judged))


def program(judged: dict[str, list[_Instruction]]) -> bytes:
    """The filter that judges calls by name; what their instructions let pass is allowed."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call numbers known for {machine}")
    unknown = (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, ARCHITECTURES[machine][0]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_JUMP_ABOVE, 0, 1, NEWEST), unknown,  # x32's numbers too
    ]  # fmt: skip
    for call, instructions in judged.items():
        number = number_of(call)
        if number is not None:
            body = [*instructions, (_RETURN, 0, 0, _ALLOW)]
            code += [(_JUMP_EQUAL, 0, len(body), number), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)


def _by_call(rules: Iterable[CallRule]) -> dict[str, list[_Instruction]]:
    judged: dict[str, list[_Instruction]] = {}
    for rule in rules:
        judged.setdefault(rule.call, []).extend(_judge(rule))
    return judged


def _refuse_unix_datagrams() -> list[_Instruction]:
    """Of unix sockets, leave those that send nowhere unconnected; SOCK_RAW is another word for
    SOCK_DGRAM there."""
    connected = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    judged = [
        (_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, _SOCKET_TYPE), *_leave(connected),
        (_RETURN, 0, 0, _REFUSE | errno.EACCES),
    ]  # fmt: skip
    return [
        (_LOAD, 0, 0, _ARGUMENTS), (_JUMP_EQUAL, 0, len(judged), socket.AF_UNIX), *judged
    ]  # fmt: skip


def _judge(rule: CallRule) -> list[_Instruction]:
    """The instructions for a call that is `rule`'s: they end in a return, or run past the last."""
    verdict = (_RETURN, 0, 0, _NOTIFY if rule.number == NOTIFY else _REFUSE | rule.number)
    load = _load(rule.argument, high=rule.high)
    if rule.pairs:
        before = _load(rule.argument - 1)
        judged = []
        for first, second in rule.pairs:
            judged += [before, (_JUMP_EQUAL, 0, 3, first), load, (_JUMP_EQUAL, 0, 1, second)]
            judged.append(verdict)
        return judged
    if rule.bits:
        judged = [load, (_JUMP_BITS, 0, 1, rule.bits), verdict]
        if rule.when is None:
            return judged
        other, bits = rule.when
        return [_load(other), (_JUMP_BITS, 0, len(judged), bits), *judged]
    if rule.only:
        return [load, *_leave(rule.only), verdict]
    if rule.never:
        return [load, *_stay(rule.never), verdict]
    return [verdict]


def _load(argument: int, *, high: bool = False) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument + (4 if high else 0))


def _leave(values: Sequence[int]) -> list[_Instruction]:
    """Compare with each of `values`: equal leaves out the instruction after the last."""
    return [(_JUMP_EQUAL, len(values) - place, 0, int(value)) for place, value in enumerate(values)]


def _stay(values: Sequence[int]) -> list[_Instruction]:
    """Compare with each of `values`: equal goes on after the last, none leaves one more out."""
    last = len(values) - 1
    return [
        (_JUMP_EQUAL, last - place, int(place == last), int(value))
        for place, value in enumerate(values)
    ]
