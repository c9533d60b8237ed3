"""A link between two network namespaces that loses and delays packets.

Makes the devices npa and npb, says "ready", and carries packets between them. Every line on standard
input is a percentage of packets to lose and a delay in seconds, one way. It does what `tc netem` does,
which not every kernel has.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
TUN_WITHOUT_HEADER = 0x1001


def device(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), TUN_WITHOUT_HEADER)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


def main():
    ends = [device("npa"), device("npb")]
    print("ready", flush=True)
    chance = random.Random(1)
    loss, delay, count, waiting = 0.0, 0.0, 0, []
    while True:
        due = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        readable = select.select([0, *ends], [], [], due)[0]
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, end, packet = heapq.heappop(waiting)
            try:
                os.write(end, packet)
            except OSError:
                pass  # The device is down.
        if 0 in readable:
            line = os.read(0, 100).decode().split()
            if not line:
                return
            loss, delay = float(line[0]), float(line[1])
        for index, end in enumerate(ends):
            if end in readable:
                packet = os.read(end, 65536)
                if chance.random() * 100 >= loss:
                    count += 1
                    heapq.heappush(waiting, (now + delay, count, ends[1 - index], packet))


sys.exit(main())
