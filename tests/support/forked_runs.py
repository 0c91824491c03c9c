"""Runs of the command that fork from one process, which has imported what every run imports.

To start Python and to import took a run more than half of its time. All else is a run's own: it has
its environment, directory and descriptors, and is a process that `main` ends. MODULES holds only
what each run imports before its command may start, so an import that comes too late is refused as
ever. How the command is started has tests of its own, and so has every run with variables of its
own: Python and our own start read them.

As a program: `forked_runs.py DESCRIPTOR CONSOLE-SCRIPT` forks a run for each message, until the
other end of the socket is closed. Then it kills the runs that go on: the tests that started them
have ended, or were killed. It imports nothing that a run does not import.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import signal
import socket
import sys

# Each run imports these: the command, and the session with all that it needs.
MODULES = ("nono_trio.cli.main", "nono_trio.cli.run", "nono_trio.session.supervisor")
MOST_BYTES = 1 << 17  # a message is the words, the environment and the directory of one run
DESCRIPTORS = 4  # of a message: stdin, stdout, stderr, and the socket for pid and status
INT = 4


def import_modules() -> None:
    """Import MODULES as the command does."""
    from nono_trio.cli.msgspec_import import sparing_typing_extensions

    with sparing_typing_extensions():
        for name in MODULES:
            __import__(name)


def main(descriptor: int, console_script: str) -> None:
    """Import, and fork a run for each message."""
    sys.path[0] = os.path.dirname(console_script)  # as for the script itself
    from nono_trio import startup

    startup.begin()
    startup.collect_rarely()
    import_modules()
    import random

    generators = [each for each in gc.get_objects() if isinstance(each, random.Random)]
    with socket.socket(fileno=descriptor) as requests:
        asked = _serve(requests)
        requests.detach()
    if asked is not None:
        for generator in generators:  # or each run would have the same order of tasks
            generator.seed()
        _become_run(console_script, *asked)


def _serve(requests: socket.socket) -> tuple[list[str], dict[str, str], str] | None:
    """Fork a run for each message; returns its message in the fork, None at the end."""
    replies: dict[int, tuple[int, socket.socket]] = {}  # by the run's pidfd
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in replies:
                poll.unregister(descriptor)
                pid, reply = replies.pop(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(pid, 0)
                _tell(reply, os.waitstatus_to_exitcode(status))
                reply.close()
                continue
            message, received = _next(requests)
            if not message:
                for pidfd in replies:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return None
            pid = os.fork()
            if pid == 0:
                os.close(requests.fileno())
                for pidfd, (_, reply) in replies.items():
                    os.close(pidfd)
                    os.close(reply.detach())
                for place, given in enumerate(received):
                    if place < DESCRIPTORS - 1:
                        os.dup2(given, place)
                    os.close(given)
                return marshal.loads(message)
            for given in received[:-1]:
                os.close(given)
            reply = socket.socket(fileno=received[-1])
            _tell(reply, pid)
            pidfd = os.pidfd_open(pid)
            replies[pidfd] = pid, reply
            poll.register(pidfd, select.POLLIN)


def _next(requests: socket.socket) -> tuple[bytes, list[int]]:
    message, ancillary, _, _ = requests.recvmsg(MOST_BYTES, socket.CMSG_SPACE(DESCRIPTORS * INT))
    data = b"".join(each for _, _, each in ancillary)
    words = [data[start : start + INT] for start in range(0, len(data), INT)]
    return message, [int.from_bytes(word, sys.byteorder) for word in words]


def _tell(reply: socket.socket, number: int) -> None:
    try:
        reply.send(marshal.dumps(number))
    except OSError:  # who asked has given up
        return


def _become_run(
    console_script: str, words: list[str], environment: dict[str, str], directory: str
) -> None:
    from nono_trio.cli.main import main as command_line

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = [console_script, *words]
    command_line()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
