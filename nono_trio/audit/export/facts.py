"""The facts of a session that its exported records repeat, from what its log binds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.audit.write.seal import public_keys_of
from nono_trio.core.export.exported import SessionFacts

if TYPE_CHECKING:
    from nono_trio.audit.stored_session import StoredSession
    from nono_trio.core.log.policy_json import SessionPolicy


def facts_of(session: StoredSession) -> SessionFacts:
    """Return the facts of a session that `bound_facts.look` has read; a log of upstream's has no
    policy, so it gives less of them."""
    summary, policy = session.summary, session.policy
    if policy is None:
        return SessionFacts(
            session_id=session.session_id,
            started=summary.started if summary is not None else "",
            command=summary.command if summary is not None else [],
        )
    origin = policy.origin
    return SessionFacts(
        session_id=session.session_id,
        name=policy.name,
        started=summary.started if summary is not None else "",
        command=summary.command if summary is not None else [],
        working_directory=policy.working_directory,
        isolation=policy.isolation,
        host=origin.host,
        user=origin.user,
        user_id=origin.user_id,
        system=origin.system,
        version=origin.nono_trio,
        key_id=_key_id(policy),
    )


def _key_id(policy: SessionPolicy) -> str | None:
    if policy.signing_keys is None:
        return None
    try:
        return public_keys_of(policy.signing_keys).key_id
    except ValueError:
        return None
