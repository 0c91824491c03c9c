"""Ways out by sockets of every family and kind that lead to a network."""

import array
import ctypes
import os
import socket
import struct
from functools import partial

from escape_base import (
    WAIT_SECONDS,
    Stopped,
    answer_knock,
    attempt,
    exchange,
    present,
    reach,
    secret_in,
    syscall,
)

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
MSG_FASTOPEN = 0x20000000


@attempt("TCP to the host's loopback")
def tcp(host):
    return reach(V4, STREAM, ("127.0.0.1", host.tcp), host)


@attempt("TCP over IPv6 to the host's loopback")
def tcp6(host):
    return reach(V6, STREAM, ("::1", host.tcp), host)


@attempt("TCP by an IPv4-mapped IPv6 address")
def tcp_mapped(host):
    return reach(V6, STREAM, ("::ffff:127.0.0.1", host.tcp), host)


@attempt("TCP to an address of this machine")
def tcp_machine(host):
    return reach(V4, STREAM, (host.address, host.tcp), host)


@attempt("TCP to the proxy's port number at another address")
def tcp_same_port(host):
    return reach(V4, STREAM, (host.other_loopback, host.proxy_port), host)


def fast_open(host, send):
    sock = socket.socket(V4, STREAM)
    with sock:
        sock.settimeout(WAIT_SECONDS)
        try:
            send(sock, ("127.0.0.1", host.tcp), host.tag.encode())
        except BlockingIOError:  # the handshake is under way
            sock.settimeout(WAIT_SECONDS)
            return exchange(sock.dup(), host)
        return secret_in(sock.recv(4096), host)


@attempt("TCP Fast Open by sendto")
def fast_open_sendto(host):
    return fast_open(host, lambda sock, to, data: sock.sendto(data, MSG_FASTOPEN, to))


@attempt("TCP Fast Open by sendmsg")
def fast_open_sendmsg(host):
    return fast_open(host, lambda sock, to, data: sock.sendmsg([data], [], MSG_FASTOPEN, to))


@attempt("TCP Fast Open by sendmmsg")
def fast_open_sendmmsg(host):
    def send(sock, to, data):
        name = struct.pack("=HH4s8x", V4, socket.htons(to[1]), socket.inet_aton(to[0]))
        text = ctypes.create_string_buffer(data)
        where = ctypes.create_string_buffer(name)
        piece = (ctypes.c_uint64 * 2)(ctypes.addressof(text), len(data))
        message = (ctypes.c_uint64 * 8)(
            ctypes.addressof(where), len(name), ctypes.addressof(piece), 1, 0, 0, 0, 0
        )
        sock.setblocking(True)
        syscall("sendmmsg", sock.fileno(), message, 1, MSG_FASTOPEN)

    return fast_open(host, send)


@attempt("TCP Fast Open by a connect that waits for data")
def fast_open_connect(host):
    with socket.socket(V4, STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
        sock.connect(("127.0.0.1", host.tcp))
        return exchange(sock.dup(), host)


@attempt("a TCP socket connected to AF_UNSPEC first")
def unspecified(host):
    with socket.socket(V4, STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        libc_connect(sock, struct.pack("=H14x", socket.AF_UNSPEC))
        sock.connect(("127.0.0.1", host.tcp))
        return exchange(sock.dup(), host)


def libc_connect(sock, name):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.connect(sock.fileno(), name, len(name))


@attempt("MPTCP to the host's loopback")
def mptcp(host):
    port = getattr(host, "mptcp", None) or host.tcp
    return reach(V4, STREAM, ("127.0.0.1", port), host, 262)


@attempt("SCTP, one stream")
def sctp(host):
    return reach(V4, STREAM, ("127.0.0.1", host.tcp), host, 132)


@attempt("SCTP, packets in sequence")
def sctp_packets(host):
    return reach(V4, SEQPACKET, ("127.0.0.1", host.tcp), host, 132)


@attempt("SMC over IPv4")
def smc(host):
    return reach(V4, STREAM, ("127.0.0.1", host.tcp), host, 256)


@attempt("DCCP")
def dccp(host):
    return reach(V4, 6, ("127.0.0.1", host.tcp), host, 33)


@attempt("UDP to the host's loopback")
def udp(host):
    return reach(V4, DATAGRAM, ("127.0.0.1", host.udp), host)


@attempt("UDP over IPv6 to the host's loopback")
def udp6(host):
    return reach(V6, DATAGRAM, ("::1", host.udp), host)


@attempt("UDP to an address of this machine")
def udp_machine(host):
    return reach(V4, DATAGRAM, (host.address, host.udp), host)


@attempt("UDP broadcast")
def broadcast(host):
    with socket.socket(V4, DATAGRAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(host.tag.encode(), ("127.255.255.255", host.udp))
        return secret_in(sock.recv(4096), host)


@attempt("UDP-Lite to the host's loopback")
def udp_lite(host):
    return reach(V4, DATAGRAM, ("127.0.0.1", present(host, "udplite")), host, 136)


@attempt("a raw ICMP socket")
def raw_icmp(host):
    return echo(socket.socket(V4, socket.SOCK_RAW, 1))


@attempt("ping by an unprivileged ICMP socket")
def ping(host):
    return echo(socket.socket(V4, DATAGRAM, 1))


def echo(sock):
    """Making such a socket is enough: it speaks a protocol that no proxy sees."""
    with sock:
        return "has an ICMP socket"


@attempt("a raw IP socket with headers of its own")
def raw_ip(host):
    with socket.socket(V4, socket.SOCK_RAW, 255):
        return "has a raw socket"


@attempt("a packet socket, raw frames")
def packet(host):
    with socket.socket(17, socket.SOCK_RAW, 3):
        return "has a packet socket"


@attempt("a packet socket, cooked frames")
def packet_cooked(host):
    with socket.socket(17, DATAGRAM, 3):
        return "has a packet socket"


@attempt("TCP by listening without a bind, called from outside")
def listen_unbound(host):
    with socket.socket(V4, STREAM) as listener:
        listener.listen()
        return answer_knock(host, listener)


@attempt("TCP by binding a port, called from outside")
def listen_bound(host):
    with socket.socket(V4, STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return answer_knock(host, listener)


@attempt("taking over the proxy's port beside it")
def share_port(host):
    with socket.socket(V4, STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", host.proxy_port))
        listener.listen()
        return answer_knock(host, listener)


@attempt("DNS by the system's resolver")
def resolve(host):
    found = socket.getaddrinfo("canary.example.com", 80, V4)
    return real_address(found[0][4][0])


def real_address(address):
    if address.startswith("198.18."):
        raise Stopped("a synthetic address")
    return f"resolved to {address}"


_QUESTION = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x06canary\x07example\x03com\0\0\x01\0\x01"


@attempt("DNS over UDP, by hand")
def dns_udp(host):
    with socket.socket(V4, DATAGRAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(("127.0.0.1", host.udp))
        sock.send(_QUESTION + host.tag.encode())
        return secret_in(sock.recv(4096), host)


@attempt("DNS over TCP, by hand")
def dns_tcp(host):
    with socket.socket(V4, STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(("127.0.0.1", host.tcp))
        question = _QUESTION + host.tag.encode()
        sock.send(struct.pack(">H", len(question)) + question)
        return secret_in(sock.recv(4096), host)


# --- families that no network namespace or Landlock rule is there for ---

VSOCK = 40


@attempt("vsock: a listener that the hypervisor can call")
def vsock_listen(host):
    with socket.socket(VSOCK, STREAM) as sock:
        sock.bind((0xFFFFFFFF, 0xFFFFFFFF))  # any context, any port
        sock.listen()
        return f"listens at {sock.getsockname()}"


@attempt("vsock: this machine's own context")
def vsock_local(host):
    return reach(VSOCK, STREAM, (1, getattr(host, "vsock", None) or 1), host)


@attempt("vsock: the context number from /dev/vsock")
def vsock_device(host):
    import fcntl

    with open("/dev/vsock", "rb") as device:
        number = array.array("I", [0])
        fcntl.ioctl(device, 0x7B9, number)
        return f"context {number[0]}"


def any_of_family(host, family, kinds):
    """A socket at all is open: the cage has no use for such a family."""
    last = None
    for kind, protocol in kinds:
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            last = error
        else:
            return f"has a socket of family {family}"
    raise last


_KINDS = [(STREAM, 0), (DATAGRAM, 0), (SEQPACKET, 0), (socket.SOCK_RAW, 0), (socket.SOCK_RAW, 1)]
for _name, _family, _kinds in (
    ("ALG (the kernel's ciphers)", 38, [(SEQPACKET, 0)]),
    ("Bluetooth", 31, [(socket.SOCK_RAW, 1), (SEQPACKET, 0), (STREAM, 3)]),
    ("CAN", 29, [(socket.SOCK_RAW, 1), (DATAGRAM, 2)]),
    ("TIPC", 30, [(DATAGRAM, 0), (SEQPACKET, 0), (STREAM, 0)]),
    ("XDP", 44, [(socket.SOCK_RAW, 0)]),
    ("RDS", 21, [(SEQPACKET, 0)]),
    ("KEY (IPsec)", 15, [(socket.SOCK_RAW, 2)]),
    ("QIPCRTR", 42, [(DATAGRAM, 0)]),
    ("SMC by its own family", 43, [(STREAM, 0)]),
    ("NFC", 39, [(SEQPACKET, 0), (socket.SOCK_RAW, 0)]),
):
    attempt(f"socket family {_name}")(partial(any_of_family, family=_family, kinds=_kinds))


@attempt("every other socket family")
def other_families(host):
    known = {socket.AF_UNIX, V4, V6, socket.AF_NETLINK}
    for family in set(range(64)) - known:
        try:
            any_of_family(host, family, _KINDS)
        except OSError:
            continue
        return f"has a socket of family {family}"
    raise Stopped("none of 60 families")


# --- netlink ---


def netlink(protocol, kind, flags, body, groups=0):
    """Send one message; return the errno of its acknowledgement and what came with it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.bind((0, groups))
        head = struct.pack("=IHHII", 16 + len(body), kind, flags | 0x5, 1, 0)
        sock.send(head + body)
        answer = sock.recv(65_536)
    kind = struct.unpack_from("=H", answer, 4)[0]
    number = -struct.unpack_from("=i", answer, 16)[0] if kind == 2 else 0
    if number:
        raise OSError(number, os.strerror(number))
    return answer


@attempt("netlink route: an address for the loopback link")
def netlink_address(host):
    body = struct.pack("=BBBBI", V4, 32, 0, 0, 1)
    body += struct.pack("=HH4s", 8, 2, socket.inet_aton("127.66.66.66"))
    netlink(0, 20, 0x600, body)
    return "the network was changed"


@attempt("netlink audit: the audit state")
def netlink_audit(host):
    netlink(9, 1000, 0, b"")
    return "the kernel's audit answers"


@attempt("netlink kobject: a device event for everyone")
def netlink_uevent(host):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as sock:
        sock.bind((0, 0))
        sock.sendto(b"add@/" + host.tag.encode(), (0, 1))
        return "sent"


@attempt("netlink sock_diag: the host's connections")
def netlink_diag(host):
    body = struct.pack("=BBBBI", V4, 6, 0, 0, 0xFFFFFFFF) + bytes(48)
    answer = netlink(4, 20, 0x300, body)
    while len(answer) > 24:
        length = struct.unpack_from("=I", answer)[0]
        state, port = answer[17], struct.unpack_from(">H", answer, 20)[0]
        if state == 10 and port == host.tcp:  # listening
            return "the host's listener is in the list"
        answer = answer[(length + 3) & ~3 or len(answer) :]
    raise Stopped("only its own sockets")
