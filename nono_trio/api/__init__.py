"""The library: `nono_trio.api.audit` and `nono_trio.api.proxy`, for programs of others.

The names in `__all__` of these two modules and the errors in `nono_trio.errors` stay as they are
within a major version (tests/api/test_names.py holds it); every other module may change.
docs/library.md is the page. Importing them imports neither trio nor the command line.
"""
