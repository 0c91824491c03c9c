"""Run in the cage: take every process that the user may have, then go on working for SECONDS.

python3 every_process.py SECONDS
"""

import os
import socket
import sys
import time
import urllib.error
import urllib.request

taken = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError:
        break
    taken += 1
print("taken", taken > 5, flush=True)
deadline = time.monotonic() + float(sys.argv[1])
answers = set()
while not answers or time.monotonic() < deadline:
    try:
        with urllib.request.urlopen("http://allowed.example.com/", timeout=60) as answered:
            answers.add(answered.status)  # this machine has a server there
    except urllib.error.HTTPError as error:
        answers.add(error.code)
    with socket.socket(socket.AF_UNIX) as sock:
        answers.add(sock.connect_ex("nobody.sock"))
print(*sorted(answers))
