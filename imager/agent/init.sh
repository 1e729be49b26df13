#!/bin/sh
# First process of a machine that booted the agent: mounts, drivers, network; then Python, again and again if it ends.
# Runs under busybox; every wait is bounded, and whatever fails is said on the console and tried again.

export PATH=/usr/bin:/usr/sbin LANG=C.UTF-8 HOME=/root TERM=linux PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts /run /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
echo 3 >/proc/sys/kernel/printk
: >/etc/fstab
ln -sf /proc/mounts /etc/mtab
ip link set lo up

# Lines for a person go to every console the kernel was given; the agent's own panel comes later.
say() {
    for console in $(cat /sys/class/tty/console/active); do
        echo "roomcast: $*" >"/dev/$console"
    done
}

argument() {
    for word in $(cat /proc/cmdline); do
        case $word in "$1"=*) echo "${word#*=}" ;; esac
    done | tail -n 1
}

# What a driver reveals (a bus behind a controller) asks for more drivers: so again while there is something new.
known=
load_drivers() {
    while :; do
        found=$(find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u)
        [ "$found" = "$known" ] && return
        known=$found
        echo "$found" | tr '\n' '\0' | xargs -0 modprobe -abq 2>/dev/null
    done
}

# The interface with the address in $1, or when it is not known every one that is a network card.
candidates() {
    for path in /sys/class/net/*; do
        [ -e "$path/device" ] || continue
        [ -z "$1" ] || [ "$(cat "$path/address")" = "$1" ] || continue
        echo "${path##*/}"
    done
}

# What is typed must not tear the panel.
stty -echo </dev/tty1 2>/dev/null
say "loading drivers"
load_drivers
[ -d /sys/firmware/efi ] && { modprobe -q efivarfs; mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null; }

# PXE writes BOOTIF as hardware type, dash, address with dashes.
mac=$(argument BOOTIF | sed 's/^..-//' | tr 'A-F-' 'a-f:')
round=0
connected=
while [ -z "$connected" ]; do
    round=$((round + 1))
    [ $round -gt 1 ] && load_drivers
    # A card that does not show itself under that address must not keep the machine from working.
    wanted=$mac
    [ $round -gt 5 ] && wanted=
    for interface in $(candidates "$wanted"); do
        ip link set "$interface" up
        # -n: give up when nobody answers; after a lease it stays in the background and renews.
        if udhcpc -i "$interface" -n -t 4 -T 2 -V roomcast-agent -s /etc/udhcpc.script >/run/udhcpc.log 2>&1; then
            connected=$interface
            break
        fi
        say "$interface: no DHCP server answered, trying again"
    done
    [ -z "$connected" ] && { [ -n "$(candidates "$mac")" ] || say "no network card ${mac:-at all} yet"; sleep 1; }
done
echo "$connected" >/run/roomcast-interface

# For a person who looks for a fault: `roomcast.shell` on the kernel command line gives a shell on Alt-F2.
case " $(cat /proc/cmdline) " in
*" roomcast.shell "*) (while :; do setsid -c sh </dev/tty2 >/dev/tty2 2>&1; done) & ;;
esac

while :; do
    python3 -m imager.agent.main
    say "the agent ended with status $?; it starts again in 5 s"
    sleep 5
done
