#!/bin/sh
# Installed by the amphora agent; run by check_script.sh.
#
# Fails unless every haproxy that should run answers on its stats socket, all within three seconds.  Their sockets stand
# in haproxy_sockets, one a line.  No such file: no load balancer was ever started here, and there is nothing that could
# serve the virtual address.  An empty one: all were stopped or deleted on purpose, and that is as it should be.
sockets=${0%/*}/../haproxy_sockets
[ -e "$sockets" ] || exit 1
[ -s "$sockets" ] || exit 0

# A haproxy that reloads hands its socket over, and may drop a connection meanwhile: it is asked again.  An alarm ends
# the program, which is a failure.  No library is loaded: that takes longer than all the rest.
if command -v perl >/dev/null; then
    exec perl -e '
        alarm 3;
        $SIG{PIPE} = "IGNORE";
        open my $list, "<", $ARGV[0] or exit 1;
        chomp(my @unheard = <$list>);
        while (@unheard) {
            my (@again, %asked, $pending);
            for my $path (@unheard) {
                # AF_UNIX and SOCK_STREAM are 1 on Linux; unix(7) describes the address.
                my $socket;
                if (socket($socket, 1, 1, 0) && connect($socket, pack("Sa*", 1, $path))
                    && syswrite($socket, "show info\n"))
                {
                    $asked{fileno $socket} = [$path, $socket];
                    vec($pending, fileno $socket, 1) = 1;
                } else {
                    push @again, $path;
                }
            }
            while (%asked) {
                select(my $ready = $pending, undef, undef, undef);
                for my $number (grep { vec($ready, $_, 1) } keys %asked) {
                    my ($path, $socket) = @{delete $asked{$number}};
                    vec($pending, $number, 1) = 0;
                    push @again, $path unless sysread $socket, my $byte, 1;
                }
            }
            @unheard = @again;
            select undef, undef, undef, 0.05 if @unheard;
        }
    ' "$sockets"
fi
exec python3 -I -S -c '
import signal, sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from select import poll
from time import sleep
signal.alarm(3)
unheard = open(sys.argv[1], "rb").read().splitlines()
while unheard:
    again, asked, pending = [], {}, poll()
    for path in unheard:
        one = socket(AF_UNIX, SOCK_STREAM)
        try:
            one.connect(path)
            one.send(b"show info\n")
        except OSError:
            again.append(path)
        else:
            asked[one.fileno()] = path, one
            pending.register(one, 1)
    while asked:
        for number, _ in pending.poll():
            path, one = asked.pop(number)
            pending.unregister(number)
            try:
                heard = one.recv(1)
            except OSError:
                heard = b""
            if not heard:
                again.append(path)
    unheard = again
    if unheard:
        sleep(0.05)
' "$sockets"
