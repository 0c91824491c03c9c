"""The cage: the plan of what the child may use, and the launcher that builds the cage.

Two processes share this room. The files here, filesystem/ and broker/ are the supervisor's side:
they make the plan (launcher/cage_plan.py), start the launcher (spawn.py) and talk to it (cage.py).
launcher/ is the child's process until it becomes the command: a new interpreter that loads only the
standard library and that folder. The supervisor imports some modules of it as well.
"""
