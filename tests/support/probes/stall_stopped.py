"""The first process stops itself; one of another session goes on counting into a file."""

import os
import signal
import sys
import time

if os.fork() == 0:
    os.setsid()
    with open(sys.argv[1], "w", buffering=1) as file:
        number = 0
        while True:
            number += 1
            print(number, file=file)
            time.sleep(0.01)
while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
    time.sleep(0.01)
print("stopping", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
print("continued", flush=True)
size = os.path.getsize(sys.argv[1])
while os.path.getsize(sys.argv[1]) == size:
    time.sleep(0.01)
print("the other too", flush=True)
