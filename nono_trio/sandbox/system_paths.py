"""Which of nono-py's policy groups a cage takes on this system, and what it adds or leaves out.

What a group grants of the host and the cage has of its own (terminals, temporary directories, other
programs' sockets) is left out. The macOS side has not been tested on a Mac.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nono_trio.sandbox.places import ON_MACOS


class SystemPaths(NamedTuple):
    """`replaced` are beginnings of paths; `too_wide` are single grants, not what is below them."""

    deny_groups: tuple[str, ...]
    groups: tuple[str, ...]
    extra_read: tuple[str, ...]
    replaced: tuple[str, ...]
    too_wide: tuple[str, ...] = ()

    def leaves_out(self, granted: str) -> bool:
        """Whether a group's grant of this path is none of the cage's."""
        return granted.startswith(self.replaced) or granted in self.too_wide


# Beyond nono-py's groups: account names (whoami, git and ssh ask for them), the rest of /usr
# (headers, libexec), and configuration without secrets that common tools refuse to start without.
LINUX: Final = SystemPaths(
    deny_groups=(
        "deny_credentials", "deny_keychains_linux", "deny_browser_data_linux",
        "deny_shell_history", "deny_shell_configs",
    ),
    groups=("system_read_linux", "system_write_linux", "user_tools"),
    extra_read=(
        "/usr", "/etc/passwd", "/etc/group", "/etc/protocols", "/etc/host.conf",
        "/etc/mime.types", "/etc/gitconfig", "/etc/inputrc", "/etc/debian_version",
        "/etc/machine-id", "/etc/fonts", "/etc/maven", "/etc/perl", "/etc/python3",
        "/etc/terminfo", "/etc/vim", "/etc/xml",
        *(f"/etc/java-{version}-openjdk" for version in (8, 11, 17, 21, 25)),
    ),
    # The console is the machine's terminal, which root may read from and write to.
    replaced=(
        "/run", "/var/run", "/tmp", "/proc", "/dev/pts", "/dev/fd", "/dev/std", "/dev/console",
    ),
)  # fmt: skip

# Not system_write_macos: all of it is other programs' temporary files and devices. Not the whole of
# /private and /var, which hold them too, nor /System/Volumes, below which every user's files have a
# second name, nor /Library: nono-py takes a grant of ours around /Library/Keychains for a wish to
# reach the keychain, and opens its Mach services. Instead: what picks the shell behind /bin/sh,
# where the system's libraries are, and the parts of /Library that programs are run from.
MACOS: Final = SystemPaths(
    deny_groups=(
        "deny_credentials", "deny_keychains_macos", "deny_browser_data_macos",
        "deny_macos_private", "deny_shell_history", "deny_shell_configs",
    ),
    groups=("system_read_macos", "homebrew", "user_tools"),
    extra_read=(
        "/usr", "/var/select", "/var/run/resolv.conf", "/System/Volumes/Preboot",
        "/Library/Apple", "/Library/Developer", "/Library/Java", "/Library/Perl",
        "/Library/Preferences", "/Library/Python", "/Library/Ruby", "/Library/TeX",
    ),
    replaced=("/dev", "/tmp", "/private/tmp", "/Volumes", "/cores", "/run"),
    too_wide=("/private", "/private/var", "/var", "/System/Volumes", "/Library"),
)  # fmt: skip

SYSTEM: Final = MACOS if ON_MACOS else LINUX
