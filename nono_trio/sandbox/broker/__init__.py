"""System calls of the child that the supervisor makes or refuses: seccomp notifications."""
