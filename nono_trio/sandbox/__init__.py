"""The cage: what the child may touch (plan), and how it is shut in (launcher, view, init).

Two processes share this package. The supervisor imports `plan` and `cage`; the launcher is a
fresh interpreter without site-packages that imports only `launcher`, `system`, `view`, `init`
and `protocol`, so those five use nothing but the standard library.
"""
