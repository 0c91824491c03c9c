"""nono-trio: run a command in a cage, record every network decision before it takes effect.

# Layers; each imports only from those to its right (held by import-linter, see pyproject.toml):
#
#   (cli | api) -> explain -> session -> config -> (proxy | sandbox) -> audit -> posix -> core
#   -> errors
#
# core/     pure: HTTP heads, names and addresses, policy, credentials, profiles, the log's bytes,
#           proofs of it, and its records in the formats of others
# steps.py  coroutines that wait without a task; task_turns.py: the turns of those that have one
# posix/    what every layer asks of the system: paths, owners, processes, files opened safely
# audit/    store and ledger; keys, write (the one writer), read, verify, recovery, search,
#           report (the HTML page)
# proxy/    listeners, HTTP, access (who may do what), upstream, transport (sockets),
#           intercept (the session's certificate authority)
# sandbox/  the file plan, the broker of system calls, and launcher/, the child's own process
# config/   flags, profile and environment settled into one value each
# session/  supervisor (who starts first, who dies last), child, signals, environment
# explain/  `why` and `doctor`
# cli/      one file a command, rendering apart from doing
# api/      the library: what programs of others import
"""

__version__ = "0.1.0"
