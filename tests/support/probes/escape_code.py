"""Ways out by nono-trio's own code: what it, or its next command, would load outside of the cage.

Nothing is changed where an attempt succeeds: files are opened for writing, or made and removed.
"""

import os
import sys
import time
import urllib.error
import urllib.request

from escape_base import WAIT_SECONDS, Stopped, attempt

# Imported late by Python's own modules, or by every interpreter at its start.
PLANTED = ("sitecustomize", "usercustomize", "nt", "stringprep", "click", "idna", "linecache")


def writable(path):
    os.close(os.open(path, os.O_WRONLY))
    return f"opened {path}"


def makeable(directory, name):
    if not os.listdir(directory):  # the cage's own: it shows nothing of the host's
        raise Stopped("nothing is there")
    path = os.path.join(directory, name)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return f"made {path}"


@attempt("writing nono-trio's own package")
def write_package(host):
    return writable(os.path.join(host.code["package"], "__init__.py"))


@attempt("writing a module of nono-trio's standard library")
def write_library(host):
    return writable(os.path.join(host.code["library"], "stringprep.py"))


@attempt("making a module inside nono-trio's own package")
def make_inside(host):
    return makeable(host.code["package"], "planted.py")


@attempt("making a module beside nono-trio's own package")
def make_beside(host):
    os.stat(host.code["package"])  # or what is seen beside it is the cage's own
    return makeable(os.path.dirname(host.code["package"]), "nt.py")


@attempt("making a module in nono-trio's site directory")
def make_site(host):
    return makeable(host.code["site"], "sitecustomize.py")


@attempt("making a pyvenv.cfg for nono-trio's interpreter")
def make_configuration(host):
    return makeable(os.path.dirname(host.code["python"]), "pyvenv.cfg")


@attempt("modules in the working directory, for nono-trio to import")
def plant_modules(host):
    mark = os.path.join(host.project, f"loaded-{host.tag}")
    for name in PLANTED:
        with open(os.path.join(host.project, f"{name}.py"), "w") as file:
            file.write(f"open({mark!r}, 'w').close()\nraise ImportError\n")
    try:
        for name in ("bücher.example".encode("idna").decode(), "planted.example"):
            urllib.request.urlopen(f"http://{name}/", timeout=WAIT_SECONDS).close()
    except (OSError, urllib.error.URLError):
        pass
    time.sleep(WAIT_SECONDS)
    try:
        if os.path.exists(mark):
            return "loaded"
    finally:
        for name in PLANTED:
            os.unlink(os.path.join(host.project, f"{name}.py"))
    raise Stopped(f"nothing was loaded by another process than {sys.executable}")
