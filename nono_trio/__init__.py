"""nono-trio: run a command in a cage, record every network decision before it takes effect.

# Layers; each imports only from those to its right:
#
#   cli -> session -> (proxy | sandbox) -> audit -> core -> errors
#
# core/     pure: events, records and chain, Merkle tree, redaction, host rules, policy, heads
# audit/    log file, writer, checkpoints, ledger, store, verify (verify runs without trio)
# proxy/    listener, CONNECT, relay, forward, resolver and dialler, authentication
# sandbox/  plan (what the child may touch) and launcher (the child's side of the cage)
# session/  supervisor (who starts first, who dies last), child, signals, environment
# cli/      one file a command family, rendering apart from doing
"""

__version__ = "0.1.0"
