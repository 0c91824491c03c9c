"""The policy groups of nono-py for this system, with our additions and omissions.

Left out are paths that the cage has of its own: terminals, temporary directories, other programs'
sockets. The macOS side has not been tested on a Mac.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nono_trio.posix.paths import ON_MACOS


class SystemPaths(msgspec.Struct, frozen=True):
    """`replaced` are prefixes of paths; `too_wide` are exact paths, without those below them."""

    deny_groups: tuple[str, ...]
    groups: tuple[str, ...]
    extra_read: tuple[str, ...]
    replaced: tuple[str, ...]
    too_wide: tuple[str, ...] = ()

    def leaves_out(self, granted: str) -> bool:
        """Tell whether a group's grant of this path is left out."""
        return granted.startswith(self.replaced) or granted in self.too_wide


# Configuration without secrets; common tools don't start without it, or answer wrongly. Left out
# are settings that may hold passwords: those of apt, wget, shells and logins.
_SETTINGS: Final = (
    "/etc/debian_version", "/etc/fonts", "/etc/gitconfig", "/etc/host.conf", "/etc/inputrc",
    "/etc/issue", "/etc/login.defs", "/etc/lsb-release", "/etc/machine-id", "/etc/magic",
    "/etc/magic.mime", "/etc/maven", "/etc/mime.types", "/etc/networks", "/etc/perl",
    "/etc/protocols", "/etc/python3", "/etc/redhat-release", "/etc/rpc", "/etc/shells",
    "/etc/terminfo", "/etc/vim", "/etc/xml",
    *(f"/etc/java-{version}-openjdk" for version in (8, 11, 17, 21, 25)),
)  # fmt: skip

# Root certificates of Fedora, SUSE and Arch, and what their OpenSSL reads at its start; the groups
# have those of Debian and Alpine. Not all of /etc/pki: it has private keys too.
_CERTIFICATES: Final = (
    "/etc/pki/ca-trust/extracted", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf", "/etc/pki/java", "/etc/crypto-policies", "/var/lib/ca-certificates",
)  # fmt: skip

# man, apropos and groff; their indexes are below /var.
_MANUALS: Final = ("/etc/manpath.config", "/etc/man_db.conf", "/etc/groff", "/var/cache/man")

# The databases of installed packages: dpkg -S, update-alternatives, rpm -q, apk info, pacman -Q.
# Without them these tools answer "no such package", and programs rely on that. Not the settings of
# repositories: their addresses may contain passwords.
_PACKAGES: Final = (
    "/etc/dpkg", "/var/lib/dpkg", "/var/lib/rpm", "/etc/rpm", "/etc/apk/arch", "/etc/apk/world",
    "/lib/apk/db", "/var/lib/pacman/local",
)  # fmt: skip

# Browsers, graphics and sound. Not all of a browser's directory: policies/enrollment has tokens of
# a company.
_BROWSERS: Final = (
    "/etc/chromium.d", "/etc/firefox/policies", "/etc/firefox/defaults", "/etc/firefox-esr",
    "/etc/glvnd", "/etc/drirc", "/etc/vulkan", "/etc/OpenCL", "/etc/gtk-2.0", "/etc/gtk-3.0",
    "/etc/gtk-4.0", "/etc/pulse",
    *(
        f"/etc/{browser}/{part}"
        for browser in ("chromium", "chromium-browser", "opt/chrome")
        for part in (
            "default", "initial_preferences", "master_preferences", "native-messaging-hosts",
            "policies/managed", "policies/recommended",
        )
    ),
)  # fmt: skip

# Beyond nono-py's groups: account names (whoami, git and ssh ask for them), the rest of /usr
# (headers, libexec), and the lists above.
LINUX: Final = SystemPaths(
    deny_groups=(
        "deny_credentials", "deny_keychains_linux", "deny_browser_data_linux",
        "deny_shell_history", "deny_shell_configs",
    ),
    groups=("system_read_linux", "system_write_linux", "user_tools"),
    extra_read=(
        "/usr", "/etc/passwd", "/etc/group", *_SETTINGS, *_CERTIFICATES, *_MANUALS, *_PACKAGES,
        *_BROWSERS,
    ),
    # /dev/console is the machine's terminal, which root may use.
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
