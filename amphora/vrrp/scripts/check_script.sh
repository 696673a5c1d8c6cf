#!/bin/sh
# Installed by the amphora agent; a keepalived configuration names it in a vrrp_script.
#
# Runs all scripts in check_scripts/, beside this file, and fails if one of them fails.  What is not executable, or
# begins with a dot, is passed over.  They run at the same time, so that their deadlines do not add up.
cd "${0%/*}/check_scripts" || exit 1
running=
for script in *; do
    if [ -f "$script" ] && [ -x "$script" ]; then
        "./$script" &
        running="$running $!"
    fi
done
status=0
for process in $running; do
    wait "$process" || status=1
done
exit "$status"
