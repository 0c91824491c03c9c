"""The start of our interpreters: without the variables and directories that other users could
write.

Rules of this file: it imports only modules that every interpreter has loaded before its first
statement, because it runs while the search path is still the caller's. The variables that decide
where Python, the loader, the C library or OpenSSL take code from are removed before anything else
of ours is imported. A process re-executes itself at most once, because the re-executed one starts
with `resume`.

The modules that an interpreter loads before `begin` can't be unloaded. So a run also refuses to let
its command write any directory that these variables name (sandbox/filesystem/named_directories.py).
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType
    from typing import NoReturn

# A list and no pattern: PYTHONUNBUFFERED and similar ones name no place of code.
PYTHON_PATHS = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX")
LIBRARY_PATH = "LD_LIBRARY_PATH"
VARIABLES = (
    *PYTHON_PATHS,
    LIBRARY_PATH, "LD_PRELOAD", "LD_AUDIT",
    "GCONV_PATH", "LOCPATH", "NLSPATH", "HOSTALIASES",
    "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES",
)  # fmt: skip

# Our imports and their imports, by the names of import: only their directories stay on the search
# path. A test compares the list with the metadata of the installed packages.
DEPENDENCIES = (
    "ahocorasick_rs", "click", "h11", "idna", "msgspec", "nono_py", "publicsuffixlist", "rich",
    "trio", "trio_util", "xxhash",
    "async_generator", "attr", "attrs", "markdown_it", "mdurl", "outcome", "pygments", "sniffio",
    "sortedcontainers",
    "annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",
    "cryptography", "cffi", "_cffi_backend", "pycparser",
    "h2", "hpack", "hyperframe",
    "keyring", "jeepney", "secretstorage", "jaraco", "more_itertools",  # where it is installed
    "importlib_metadata", "zipp", "backports",
)  # fmt: skip

# Only the package: its neighbours are not on the search path when the rest is imported.
_RESUME = (
    "import sys; sys.path.insert(0, sys.argv[2]); import nono_trio; del sys.path[0];"
    " from nono_trio.entry import resume; resume(int(sys.argv[1]))"
)
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PROGRAM = "nono-trio"
_WHILE_IMPORTING = 100_000  # new containers before a collection: a run imports fewer


class Beginning:
    """How this process began.

    `variables` are those of VARIABLES that the caller had set; `search_path` is the first
    interpreter's, absolute, the script's directory included; `uses_working_directory`: it was
    among it (`python -m`); `user_site`: the user's own packages may be loaded.
    """

    def __init__(
        self,
        variables: dict[str, str],
        search_path: Sequence[str],
        *,
        uses_working_directory: bool,
        user_site: bool,
    ) -> None:
        self.variables = variables
        self.search_path = tuple(search_path)
        self.uses_working_directory = uses_working_directory
        self.user_site = user_site


class _State:
    """The facts of this process; `by_entry`: it is the command, not a library's user."""

    beginning: Beginning | None = None
    by_entry = False
    thresholds: tuple[int, int, int] | None = None


def beginning() -> Beginning:
    """Return how this process began; in other programs than `nono-trio`, its present state."""
    return _State.beginning or _look_around()


def is_command() -> bool:
    """Return True if this process is the command, started by one of its entry points."""
    return _State.by_entry


def collect_rarely() -> None:
    """Look for garbage rarely: imported modules are no garbage, and to search them takes a
    fifteenth of the time of a run's start."""
    import gc  # late: only once the search path is ours

    _State.thresholds = gc.get_threshold()
    gc.set_threshold(_WHILE_IMPORTING, *_State.thresholds[1:])


def collect_as_usual() -> None:
    """Undo `collect_rarely`: for what stays for long. All that there is now is left out."""
    if _State.thresholds is not None:
        import gc

        gc.freeze()
        gc.set_threshold(*_State.thresholds)
        _State.thresholds = None


def caller_environment() -> dict[str, str]:
    """Return the environment that the caller gave, before any re-execution."""
    return {**os.environ, **beginning().variables}


def library_environment() -> dict[str, str]:
    """Return the variables that another interpreter of ours needs to start."""
    kept = kept_library_directories(beginning().variables.get(LIBRARY_PATH, ""))
    return {LIBRARY_PATH: ":".join(kept)} if kept else {}


def begin() -> None:
    """Reduce the search path to ours; re-executes this process if the variables are set.

    Call it first. Returns only in a process that needs no re-execution.
    """
    found = _look_around()
    if found.variables or found.uses_working_directory:
        _re_execute(found)
    _set_up(found, carried=())


def resume(descriptor: int) -> None:
    """Continue after the re-execution, with the data that `begin` left in the file of
    `descriptor`."""
    with open(descriptor, "rb") as file:
        left = marshal.load(file)
    found = Beginning(
        left["variables"],
        left["search_path"],
        uses_working_directory=left["uses_working_directory"],
        user_site=left["user_site"],
    )
    sys.argv = [_PROGRAM, *sys.argv[3:]]
    _set_up(found, carried=left["carried"])


def dependency_directories(search_path: Sequence[str]) -> list[str]:
    """Return the entries of `search_path` that our dependencies are found in; imports nothing.

    Their order is that of `search_path`. A place that only one of them is found in does not come
    before the place of the others, where it could offer another module of their names.
    """
    found = {os.path.dirname(path) for path in dependency_paths(search_path)}
    return [entry for entry in dict.fromkeys(map(os.path.abspath, search_path)) if entry in found]


def dependency_paths(search_path: Sequence[str]) -> list[str]:
    """Return the directory, or for a single module the file, of each dependency that is found."""
    find = _path_finder().find_spec
    found = []
    for name in DEPENDENCIES:
        spec = find(name, list(search_path))
        if spec is not None and spec.origin is not None:
            inside = spec.submodule_search_locations
            found.append(next(iter(inside)) if inside else spec.origin)
    return found


def standard_directories(search_path: Iterable[str]) -> list[str]:
    """Return the entries of `search_path` that are the standard library."""
    library = os.path.dirname(os.__file__)
    version = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return [
        entry
        for entry in search_path
        if entry == library
        or os.path.basename(entry) == "lib-dynload"
        or entry == os.path.join(os.path.dirname(library), version)
    ]


def is_standard_module(name: str) -> bool:
    """Tell whether the standard library of this interpreter has a module of that name."""
    if name in sys.builtin_module_names:
        return True
    return _path_finder().find_spec(name, standard_directories(sys.path)) is not None


def kept_library_directories(value: str) -> list[str]:
    """Return the directories of an LD_LIBRARY_PATH that this interpreter's libpython is in.

    Without them it would not start again.
    """
    entries = [entry for entry in value.replace(";", ":").split(":") if os.path.isabs(entry)]
    if not entries:
        return []
    here = {os.path.dirname(path) for path in mapped_files() if "/libpython" in path}
    return [entry for entry in entries if os.path.realpath(entry) in here]


def mapped_files() -> list[str]:
    """Return the files whose code is in this process, each once."""
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found: dict[str, None] = {}
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and b"x" in fields[1] and fields[5].startswith(b"/"):
            found[os.fsdecode(fields[5].removesuffix(b" (deleted)"))] = None
    return list(found)


def _path_finder() -> ModuleType:
    """The interpreter's own, which is loaded already: no module of its name is looked for."""
    finder: ModuleType = sys.modules["_frozen_importlib_external"].PathFinder
    return finder


def _look_around() -> Beginning:
    try:
        here = os.getcwd()
    except OSError:  # it is gone: nothing is found there either
        here = ""
    first = sys.path[0] if sys.path and not sys.flags.safe_path else None
    site = sys.modules.get("site")
    return Beginning(
        {name: os.environ[name] for name in VARIABLES if name in os.environ},
        [os.path.abspath(entry) if entry else here for entry in sys.path if entry or here],
        uses_working_directory=first in ("", here),
        user_site=bool(site is not None and site.ENABLE_USER_SITE),
    )


def _re_execute(found: Beginning) -> NoReturn:
    carried = dependency_directories(_without_working_directories(found))
    left = {
        "variables": found.variables,
        "search_path": found.search_path,
        "uses_working_directory": found.uses_working_directory,
        "user_site": found.user_site,
        "carried": carried,
    }
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    kept = kept_library_directories(found.variables.get(LIBRARY_PATH, ""))
    if kept:
        environment[LIBRARY_PATH] = ":".join(kept)
    try:
        descriptor = _leave(marshal.dumps(left))
        command = [sys.executable, *_flags(carried), "-c", _RESUME, str(descriptor)]
        os.execve(sys.executable, [*command, _PACKAGE_PARENT, *sys.argv[1:]], environment)
    except OSError as error:
        named = ", ".join(found.variables) or "the working directory"
        sys.stderr.write(
            f"{_PROGRAM}: error: Python can't be started again without {named}: {error.strerror}\n"
            "hint: unset what names directories of code, and run it as `nono-trio`\n"
        )
        sys.exit(1)


def _flags(carried: Iterable[str]) -> list[str]:
    """Isolated from environment and working directory; what the caller chose else stays."""
    site = sys.modules.get("site")
    own = site.USER_SITE if site is not None else None
    by_user = own is not None and own in (*carried, _PACKAGE_PARENT)
    flags = ["-E", "-P"] if by_user else ["-I"]
    flags += ["-B"] if sys.flags.dont_write_bytecode else []
    return [*flags, "-X", f"utf8={int(bool(sys.flags.utf8_mode))}"]


if sys.platform == "linux":

    def _leave(data: bytes) -> int:
        """Return the descriptor of a file in memory that holds `data`, for the next program."""
        descriptor = os.memfd_create("nono-trio", 0)
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

else:

    def _leave(data: bytes) -> int:
        """Return the descriptor of a pipe that holds `data`; raises OSError if it has no room."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        if os.write(writing, data) != len(data):
            raise OSError(0, "the environment is too large")
        os.close(writing)
        os.set_inheritable(reading, True)
        return reading


def ordered(others: list[str], carried: Sequence[str]) -> list[str]:
    """Return the places of the dependencies, the whole installation first.

    It may be in `carried` (`pip install --target`), where an older package of the system must not
    hide one of its own. If it is in `others`, what a variable names can't add a module to it.
    """
    both = [*others, *carried]
    if not carried:
        return both
    every = len(dependency_paths(both))
    if len(dependency_paths(others)) < every == len(dependency_paths(carried)):
        return [*carried, *others]
    return both


def _without_working_directories(found: Beginning) -> list[str]:
    """Return the search path without what depends on where the command is started.

    There a package that is missing in the installation could be planted.
    """
    named = found.variables.get("PYTHONPATH", "").split(os.pathsep)
    path = found.search_path[1:] if found.uses_working_directory else found.search_path
    try:
        relative = {os.path.abspath(entry) for entry in named if not os.path.isabs(entry)}
    except OSError:  # the working directory is gone, and nothing is found there
        return list(path)
    return [entry for entry in path if entry not in relative]


def _set_up(found: Beginning, carried: Sequence[str]) -> None:
    """Reduce the search path to the standard library and where our dependencies are.

    The package is not looked for on it: it is loaded, and its modules are found by its own path.
    """
    _State.beginning = found
    _State.by_entry = True
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    if not sys.flags.safe_path and path:  # the script's own directory, last
        path = [*path[1:], path[0]]
    standard = standard_directories(path)
    others = [entry for entry in path if entry not in standard]
    sys.path[:] = [*standard, *dependency_directories(ordered(others, carried))]
    known = (*sys.builtin_module_names, "_frozen_importlib", "_frozen_importlib_external")
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if getattr(finder, "__module__", "") in known
    ]
