#!/bin/sh
# Installed by the amphora agent; a UDP listener's configuration names it for the checks of its members:
#
#     udp_check.sh ADDRESS PORT
#
# Fails if the member's host says within a second that nobody listens there.  A member that stays silent passes: UDP
# owes no answer.
# Without a netcat nothing can be said of the member, so it counts as well.
command -v nc >/dev/null || exit 0
case $(nc --version 2>&1) in
    *[Nn]map*) limit=-i1 ;;
    *) limit=-w1 ;;
esac
exec nc -uzv "$limit" "$1" "$2" >/dev/null 2>&1
