"""The pure core: no event loop, no operating system; bytes and rules only."""
