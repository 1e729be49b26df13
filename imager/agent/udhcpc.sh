#!/bin/sh
# What busybox's udhcpc calls with a lease. Only the address and routes: the agent speaks to addresses, never to names.
case $1 in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    # Replacing keeps a running session's sockets alive when the lease is renewed.
    ip addr replace "$ip/${mask:-24}" broadcast + dev "$interface"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface"
    done
    ;;
esac
