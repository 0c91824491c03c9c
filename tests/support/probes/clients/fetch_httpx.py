"""Fetches each URL with httpx: prints the protocol, the status and the body."""

import sys

import httpx

with httpx.Client(http2=True) as client:
    for url in sys.argv[1:]:
        answer = client.get(url)
        print(answer.http_version, answer.status_code, answer.text)
