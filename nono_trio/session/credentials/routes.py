"""The reverse routes of a session, and the variables by which clients find them.

Rules of this file: a variable has the URL of a route whatever else says: the user has asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nono_trio.core.credentials.route import Route, make_route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nono_trio.core.credentials.credential import Credential
    from nono_trio.session.credentials.held_secret import HeldSecret


@dataclass(frozen=True, slots=True, eq=False)
class SessionRoute:
    """A route and the stand-in that its requests show."""

    route: Route
    stand_in: bytes = field(repr=False)


def session_routes(held: Iterable[HeldSecret]) -> list[SessionRoute]:
    """Return the routes of the credentials that have one."""
    return [
        SessionRoute(make_route(one.credential), one.stand_in)
        for one in held
        if one.credential.route
    ]


def route_urls(credentials: Iterable[Credential], listener: str) -> dict[str, str]:
    """Return the base URLs by the names of their credentials. `listener` is HOST:PORT."""
    return {one.name: make_route(one).base_url(listener) for one in credentials if one.route}


def route_variables(credentials: Iterable[Credential], listener: str) -> dict[str, str]:
    """Return the base URL variables. `listener` is HOST:PORT of the proxy."""
    return {
        name: make_route(one).base_url(listener)
        for one in credentials
        if one.route
        for name in route_names(one)
    }


def route_names(credential: Credential) -> tuple[str, ...]:
    """Return the variables for the base URL of a route: those of the service, or NAME_BASE_URL."""
    own = credential.name.upper().replace("-", "_")
    return credential.base_url_variables or (f"{own}_BASE_URL",)
