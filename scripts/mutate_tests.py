"""The tests that a mutant is tried against, by its file or folder; the most exact row counts.

All tests of a row are run once, and what each calls is noted. A mutant in a function is then tried
against the tests that call it, the quick ones first. Code that runs in a process of a test's own is
not seen by that; with --processes the files of `PROCESSES` are tried last, whatever they call.
"""

from __future__ import annotations

ROWS: dict[str, tuple[str, ...]] = {
    "nono_trio/steps.py": (
        "tests/test_steps.py", "tests/test_task_turns.py", "tests/audit/write/test_record_queue.py",
    ),
    "nono_trio/task_turns.py": ("tests/test_task_turns.py", "tests/test_steps.py"),
    "nono_trio/core": ("tests/core",),
    "nono_trio/core/credentials": (
        "tests/core/credentials", "tests/config/test_credentials.py",
        "tests/proxy/http/test_token_answers.py",
    ),
    "nono_trio/core/export": ("tests/core/export", "tests/audit/export"),
    "nono_trio/core/http": (
        "tests/core/http", "tests/proxy/access", "tests/proxy/http/test_error_response.py",
        "tests/proxy/http/test_rewrite.py", "tests/proxy/http/test_trailers.py",
        "tests/proxy/http/test_websocket.py",
    ),
    "nono_trio/core/log": (
        "tests/core/log", "tests/core/policy/test_attempts.py", "tests/audit/verify/test_verify.py",
        "tests/audit/verify/test_bound_facts.py", "tests/audit/write/test_writer.py",
        "tests/audit/verify/test_ledger_signatures.py", "tests/audit/test_ledger.py",
        "tests/audit/write/test_searched_records.py",
    ),
    "nono_trio/core/net": ("tests/core/net", "tests/core/policy", "tests/proxy/access"),
    "nono_trio/core/policy": (
        "tests/core/policy", "tests/proxy/access", "tests/explain", "tests/config",
        "tests/core/net/test_host.py", "tests/proxy/http/test_left_alone.py",
        "tests/cli/test_entry_forms.py", "tests/session/test_denials_file.py",
        "tests/audit/read/test_learn.py",
        "tests/proxy/http/test_error_response.py",
    ),
    "nono_trio/core/profile": ("tests/core/profile", "tests/config"),
    "nono_trio/core/proof": (
        "tests/core/proof", "tests/core/log", "tests/audit/verify/test_proofs.py",
        "tests/audit/verify/test_ledger_signatures.py",
        "tests/audit/verify/test_ledger_cosignatures.py", "tests/audit/verify/test_signatures.py",
        "tests/audit/verify/test_parts.py",
    ),
    "nono_trio/proxy/access": (
        "tests/proxy/access", "tests/proxy/http/test_left_alone.py",
        "tests/proxy/http/test_error_response.py", "tests/proxy/http/test_faults.py",
        "tests/proxy/http/test_routes.py", "tests/proxy/http/test_mcp_requests.py",
        "tests/proxy/http/test_first_bytes.py", "tests/proxy/http/test_limits.py",
        "tests/proxy/http/test_intercepted_requests.py",
        "tests/proxy/listeners/test_dns_responder.py",
        "tests/proxy/listeners/test_transparent_http.py",
    ),
    "nono_trio/audit/verify": (
        "tests/audit/verify", "tests/audit/archive", "tests/audit/test_hostile_files.py",
    ),
    **dict.fromkeys(
        (f"nono_trio/audit/verify/{one}.py" for one in ("chain", "checkpoints", "seal_check")),
        (
            "tests/audit/verify/test_verify.py", "tests/audit/verify/test_verify_unsealed.py",
            "tests/audit/verify/test_verify_sealed.py", "tests/audit/verify/test_forgers.py",
        ),
    ),
    "nono_trio/audit/write": (
        "tests/audit/write/test_writer.py", "tests/audit/write/test_searched_records.py",
        "tests/audit/write/test_record_queue.py",
        "tests/audit/write/test_signing.py", "tests/audit/write/test_failed_syncs.py",
        "tests/audit/write/test_disk_room.py", "tests/audit/test_ledger.py",
        "tests/audit/verify/test_signatures.py",
        "tests/audit/verify/test_ledger_signatures.py", "tests/session/test_every_await.py",
    ),
}  # fmt: skip

PROCESSES: dict[str, tuple[str, ...]] = {
    "nono_trio/audit/write": (
        "tests/audit/write/test_crash.py", "tests/audit/write/test_killed.py",
    ),
}  # fmt: skip


def row(table: dict[str, tuple[str, ...]], path: str) -> tuple[str, ...]:
    """The tests of the longest folder that holds `path`; () if none does."""
    holders = [one for one in table if path == one or path.startswith(f"{one}/")]
    return table[max(holders, key=len)] if holders else ()
