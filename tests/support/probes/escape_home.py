"""Ways into the homes of other cages: what one kept, and what a later one would find."""

import os

from escape_base import attempt, overwrite, read

HOMES = ".local/share/nono-trio/homes"


def in_homes(host, name=""):
    return os.path.join(host.home, HOMES, name)


@attempt("a login in another cage's home")
def read_login(host):
    return read(in_homes(host, "other.landlock/home/.login"), host)


@attempt("a login in another cage's home, by a way beside its own")
def read_beside(host):
    real = os.path.realpath(os.environ["HOME"])
    return read(os.path.join(real, "../../other.landlock/home/.login"), host)


@attempt("a login in another cage's home, by a symlink in its own")
def read_by_link(host):
    link = os.path.join(os.environ["HOME"], "login")
    os.symlink(in_homes(host, "other.landlock/home/.login"), link)
    return read(link, host)


@attempt("the homes of other cages, listed")
def list_homes(host):
    return f"found {os.listdir(in_homes(host))}"


@attempt("a file planted in another cage's home")
def plant(host):
    return overwrite(in_homes(host, "other.landlock/home/.login"), host, os.O_WRONLY | os.O_TRUNC)


@attempt("a home made for a later cage")
def make_home(host):
    os.mkdir(in_homes(host, "later.landlock"))
    return "made it"


@attempt("another cage's home moved into its own")
def move_home(host):
    os.rename(in_homes(host, "other.landlock"), os.path.join(os.environ["HOME"], "other"))
    return "moved it"


@attempt("the mode of another cage's home")
def chmod_home(host):
    os.chmod(in_homes(host, "other.landlock"), 0o755)
    return "changed it"


@attempt("the lock of another cage's home")
def lock_home(host):
    os.close(os.open(in_homes(host, "other.landlock/lock"), os.O_RDONLY))
    return "opened it"
