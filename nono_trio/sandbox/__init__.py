"""The cage: what the child may touch (plan), and how it is shut in (launcher, view, init).

Two processes share this package. The supervisor imports `plan` and `cage`; the launcher is a
fresh interpreter without site-packages that imports only `launcher` and what that names
(`system`, `namespaces`, `view`, `filter`, `init`, `protocol` ...), so those use nothing but the
standard library.
"""
