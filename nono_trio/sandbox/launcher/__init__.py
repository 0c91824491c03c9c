"""The child's process until it becomes the command: the standard library and this folder only.

The child has this folder as a package of its own, not as a part of `nono_trio`: modules in here
import each other relatively. The supervisor shares some of them (protocol, hostile_tree, ...).
"""
