"""Ways to take the processor from other processes: affinity, policy and priority.

Each sets what is set already, so that nothing changes where it is allowed.
"""

import ctypes
import os
import struct
from functools import partial

from escape_base import attempt, syscall
from escape_processes import WHO

_PROCESS, _GROUP, _USER = 1, 2, 3  # of ioprio_set; of setpriority each is one less


def affinity(pid):
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))


def policy(pid):
    os.sched_setscheduler(pid, os.sched_getscheduler(pid), os.sched_getparam(pid))


def parameter(pid):
    os.sched_setparam(pid, os.sched_getparam(pid))


def attributes(pid):
    current = ctypes.create_string_buffer(48)
    syscall("sched_getattr", pid, current, 48, 0)
    wanted = struct.pack("=I", 48) + current.raw[4:]
    syscall("sched_setattr", pid, wanted, 0)


def disk_priority(pid, which=_PROCESS):
    syscall("ioprio_set", which, pid, syscall("ioprio_get", which, pid))


def change(host, whose, action):
    action(whose(host))
    return "changed"


for _who in ("the supervisor", "the cage's init", "a host process"):
    for _name, _action in {
        "the processors of": affinity, "the scheduling policy of": policy,
        "the scheduling parameter of": parameter, "the scheduling attributes of": attributes,
        "the disk priority of": disk_priority,
    }.items():  # fmt: skip
        attempt(f"{_name} {_who}")(partial(change, whose=WHO[_who], action=_action))


@attempt("the priority of every process of its user")
def priority_of_user(host):
    os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_USER, 0))
    return "changed"


@attempt("the priority of the supervisor's process group")
def priority_of_group(host):
    group = os.getpgid(host.supervisor)
    os.setpriority(os.PRIO_PGRP, group, os.getpriority(os.PRIO_PGRP, group))
    return "changed"


@attempt("the disk priority of every process of its user")
def disk_priority_of_user(host):
    disk_priority(os.getuid(), _USER)
    return "changed"


@attempt("the disk priority of the supervisor's process group")
def disk_priority_of_group(host):
    disk_priority(os.getpgid(host.supervisor), _GROUP)
    return "changed"
