"""`python -m nono_trio` is the command `nono-trio`."""

from nono_trio.entry import main

if __name__ == "__main__":
    main()
