"""Seccomp filters for calls that neither a namespace nor a Landlock rule stops.

Namespaces leave gaps: vsock reaches the hypervisor from any network namespace, keys belong to a
user, TIOCSTI types into the terminal that the cage shares with the user's shell. Landlock's TCP
rules cover connect(), which TCP Fast Open bypasses. Rules: a filter sees the numbers of a call, not
the memory behind its pointers; a call that it can't judge from these is refused completely
(io_uring, which can make sockets); calls of another architecture end the process, because each has
a second set of call numbers. The rules are in call_rules.py.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import syscalls
from .call_numbers import ARCHITECTURES, NEWEST, number_of

NOTIFY = -1  # instead of an errno: the call waits for an answer on the notification descriptor

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
    """One call that is refused with the errno `number`, or sent to the supervisor (NOTIFY). With
    the number 0 it does nothing and succeeds.

    Without a condition the rule always applies; otherwise the low 32 bits of one argument decide,
    because the kernel ignores the high bits. Of several rules for a call the first match decides.
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
    """Install an inherited, irrevocable filter that refuses the calls of `rules`.

    Needs PR_SET_NO_NEW_PRIVS. Raises OSError, also for an unsupported architecture.
    """
    syscalls.install_filter(program(_by_call(rules)))


def notify_calls(rules: Iterable[CallRule], *, connections: bool) -> int:
    """Install an inherited, irrevocable filter that sends the calls of `rules` to the supervisor.

    Returns the notification descriptor (see broker/seccomp_notify.py). `connections`: also refuse
    unix datagram sockets, which can send to a path without connect(). Raises OSError as
    `refuse_calls`, and EBUSY if another process already handles seccomp notifications.
    """
    judged = _by_call(rules)
    if connections:
        judged |= dict.fromkeys(("socket", "socketpair"), _refuse_unix_datagrams())
    return syscalls.install_notifying_filter(program(judged))


def program(judged: dict[str, list[_Instruction]]) -> bytes:
    """Return the filter with instructions for each call by name; all other calls are allowed."""
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
    """Return instructions that allow only connection-oriented unix sockets.

    For unix sockets SOCK_RAW means SOCK_DGRAM.
    """
    connected = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    judged = [
        (_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, _SOCKET_TYPE), *_leave(connected),
        (_RETURN, 0, 0, _REFUSE | errno.EACCES),
    ]  # fmt: skip
    return [
        (_LOAD, 0, 0, _ARGUMENTS), (_JUMP_EQUAL, 0, len(judged), socket.AF_UNIX), *judged
    ]  # fmt: skip


def _judge(rule: CallRule) -> list[_Instruction]:
    """Return the instructions of `rule`: they return its verdict, or continue past their end."""
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
    """Compare with each of `values`; on a match skip the instruction after the comparisons."""
    return [(_JUMP_EQUAL, len(values) - place, 0, int(value)) for place, value in enumerate(values)]


def _stay(values: Sequence[int]) -> list[_Instruction]:
    """Compare with each of `values`; without a match skip the instruction after them."""
    last = len(values) - 1
    return [
        (_JUMP_EQUAL, last - place, int(place == last), int(value))
        for place, value in enumerate(values)
    ]
