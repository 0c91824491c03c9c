"""A seccomp filter for what neither a namespace nor a Landlock rule stops.

Namespaces do not reach everything: vsock leads to the hypervisor from any network namespace, keys
belong to a user, TIOCSTI types into the terminal that the cage shares with its user's shell. And
Landlock's TCP rules look at connect(), which TCP Fast Open goes round. Rules: a filter judges
numbers, never what a pointer points to; a call that it can't judge whole is refused whole
(io_uring, which makes sockets by itself); another architecture's calls end the process, since
each has a second set of numbers for all of this. Standard library only: it runs in the launcher.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from nono_trio.sandbox import system

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# linux/audit.h and the system call tables: x86_64, then the numbers that newer machines share.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
}
_NUMBERS = {
    "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "prlimit64": (302, 261),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "connect": (42, 203), "listen": (50, 201),
    "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "setsockopt": (54, 208),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
_X32_BIT = 0x40000000  # x86_64's second table, in the same architecture

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_MSG_FASTOPEN = 0x20000000
_SOCKET_TYPE = 0xF  # the rest of the argument is flags
_SO_BINDTOIFINDEX = 62
_DETOURS = (
    (socket.IPPROTO_IP, socket.IP_OPTIONS),
    (socket.SOL_SOCKET, socket.SO_BINDTODEVICE),
    (socket.SOL_SOCKET, _SO_BINDTOIFINDEX),
)

# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_AND = 0x54
_ALLOW, _ASK, _REFUSE, _KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
_INSTRUCTION = struct.Struct("=HBBI")
_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class Rule(NamedTuple):
    """One call that is refused with `number`: always, or as one argument's low 32 bits say.

    The kernel ignores the high bits of these arguments, so the filter must not look at them.
    """

    call: str
    number: int
    argument: int = 0
    only: Sequence[int] = ()  # refused for every other value
    never: Sequence[int] = ()  # refused for these values
    bits: int = 0  # refused with any of these bits
    pairs: Sequence[tuple[int, int]] = ()  # refused where it and the one before are such a pair


# In every cage. ENOSYS where programs know how to do without.
COMMON = (
    Rule("socket", errno.EAFNOSUPPORT, 0, only=_FAMILIES),
    Rule("socketpair", errno.EAFNOSUPPORT, 0, only=_FAMILIES),
    Rule("ioctl", errno.EPERM, 1, never=(_TIOCSTI, _TIOCLINUX)),
    # Another process' limits: RLIMIT_CPU kills it. Only the same uid is asked, no LSM.
    Rule("prlimit64", errno.EPERM, 0, only=(0,)),
    *(Rule(call, errno.ENOSYS) for call in ("keyctl", "add_key", "request_key")),
    *(
        Rule(call, errno.ENOSYS)
        for call in ("io_uring_setup", "io_uring_enter", "io_uring_register")
    ),
)

# Where the host's network and its IPC objects are the child's too.
SHARED_HOST = (
    Rule("sendto", errno.EPERM, 3, bits=_MSG_FASTOPEN),
    Rule("sendmsg", errno.EPERM, 2, bits=_MSG_FASTOPEN),
    Rule("sendmmsg", errno.EPERM, 3, bits=_MSG_FASTOPEN),
    # A connection to the proxy whose packets go elsewhere: by a source route, by an interface.
    Rule("setsockopt", errno.EPERM, 2, pairs=_DETOURS),
    *(Rule(call, errno.EPERM) for call in ("mq_open", "mq_unlink")),
    *(
        Rule(call, errno.EPERM)
        for call in _NUMBERS
        if call.startswith(("shm", "sem", "msg"))
    ),
)  # fmt: skip


def refuse_calls(rules: Iterable[Rule]) -> None:
    """Refuse `rules` for this process and all it starts, for good.

    Needs PR_SET_NO_NEW_PRIVS. Raises OSError, also for a machine whose numbers are not known.
    """
    system.install_filter(_program((rule.call, _judge(rule)) for rule in rules))


def ask_about_calls() -> int:
    """Have connect and listen of this process and all it starts asked about, for good; return the
    descriptor at which they are (`sandbox.notification`).

    Datagrams to a path need neither, so unix sockets for datagrams are refused. As `refuse_calls`;
    also raises OSError where somebody else is asked already (EBUSY).
    """
    asked = [(call, [(_RETURN, 0, 0, _ASK)]) for call in ASKED]
    made = [(call, _refuse_unix_datagrams()) for call in ("socket", "socketpair")]
    return system.install_notifying_filter(_program([*asked, *made]))


ASKED = ("connect", "listen")


def call_name(number: int) -> str | None:
    """Which of `ASKED` has this number here."""
    column = _ARCHITECTURES[os.uname().machine][1]
    return next((call for call in ASKED if _NUMBERS[call][column] == number), None)


def _program(judged: Iterable[tuple[str, list[_Instruction]]]) -> bytes:
    """The filter that judges calls by name, each with instructions that end in a return."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call numbers known for {machine}")
    architecture, column = _ARCHITECTURES[machine]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]  # fmt: skip
    if machine == "x86_64":
        refused = _REFUSE | errno.ENOSYS
        program += [(_JUMP_BITS, 0, 1, _X32_BIT), (_RETURN, 0, 0, refused)]
    for call, instructions in judged:
        number = _NUMBERS[call][column]
        program += [(_JUMP_EQUAL, 0, len(instructions), number), *instructions]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*each) for each in program)


def _refuse_unix_datagrams() -> list[_Instruction]:
    """Of unix sockets, leave those that send nowhere unconnected; SOCK_RAW is another word for
    SOCK_DGRAM there."""
    connected = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | errno.EACCES)
    judged = [
        (_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, _SOCKET_TYPE), *_jumps(connected), refuse
    ]  # fmt: skip
    return [
        (_LOAD, 0, 0, _ARGUMENTS), (_JUMP_EQUAL, 0, len(judged), socket.AF_UNIX), *judged, allow
    ]  # fmt: skip


def _judge(rule: Rule) -> list[_Instruction]:
    """The instructions for a call that is `rule`'s; each path of them ends in a return."""
    refuse, allow = (_RETURN, 0, 0, _REFUSE | rule.number), (_RETURN, 0, 0, _ALLOW)
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * rule.argument)
    if rule.pairs:
        before = (_LOAD, 0, 0, _ARGUMENTS + 8 * (rule.argument - 1))
        judged = (
            [before, (_JUMP_EQUAL, 0, 3, first), load, (_JUMP_EQUAL, 0, 1, second), refuse]
            for first, second in rule.pairs
        )
        return [*chain.from_iterable(judged), allow]
    if rule.bits:
        return [load, (_JUMP_BITS, 0, 1, rule.bits), refuse, allow]
    if rule.only:
        return [load, *_jumps(rule.only), refuse, allow]
    if rule.never:
        return [load, *_jumps(rule.never), allow, refuse]
    return [refuse]


def _jumps(values: Sequence[int]) -> list[_Instruction]:
    """Compare with each of `values`: equal goes two instructions past the last, else one."""
    return [(_JUMP_EQUAL, len(values) - place, 0, int(value)) for place, value in enumerate(values)]
