#!/bin/sh
# Installed by the amphora agent; run by check_script.sh.
#
# Fails unless the keepalived of every UDP listener that should run is there.  Their process ids stand in lvs_processes,
# one a line, each with its time of start (proc(5), field 22 of stat): ids come back, and pid files outlive who wrote
# them.  No such file, or an empty one: no UDP listener should run.
processes=${0%/*}/../lvs_processes
[ -e "$processes" ] || exit 0
while read -r pid started; do
    read -r stat 2>/dev/null <"/proc/$pid/stat" || exit 1
    # The name, in brackets, may hold blanks and brackets itself; then come the state and eighteen fields.
    # shellcheck disable=SC2086  # split into fields
    set -- ${stat##*) }
    case $1 in Z | X) exit 1 ;; esac
    [ "${20}" = "$started" ] || exit 1
done <"$processes"
