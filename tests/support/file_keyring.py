"""A backend of the library keyring that keeps passwords in the JSON file of FILE_KEYRING.

PYTHON_KEYRING_BACKEND=file_keyring.Keyring has the library take it. It is locked while a
file beside that one says so (`NAME.locked`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

FILE = "FILE_KEYRING"


class Keyring(KeyringBackend):
    priority = 9

    @property
    def _path(self) -> Path:
        return Path(os.environ[FILE])

    def passwords(self) -> dict[str, str]:
        """All passwords, by "service user"."""
        if self._path.with_suffix(".locked").exists():
            raise KeyringLocked("a text of the keyring")
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _write(self, passwords: dict[str, str]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(passwords))
        os.replace(new, self._path)

    def get_password(self, service: str, username: str) -> str | None:
        return self.passwords().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write(self.passwords() | {f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        passwords = self.passwords()
        if passwords.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError("there is none")
        self._write(passwords)


class Unsafe(Keyring):
    """One that its authors do not recommend."""

    priority = 0.5
