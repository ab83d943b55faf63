#!/bin/sh
# The command `mover` on a node whose daemon is the container of mover.container: goes to /usr/local/bin/mover.
# Runs in that container; while there is none, in one of its own with the rights that the unit gives.
set -euf
# Without a terminal nothing is asked: the input stays the script's that calls this.
terminal=
if [ -t 0 ]; then terminal=--interactive; fi
if [ -t 0 ] && [ -t 1 ]; then terminal="--interactive --tty"; fi

if [ "$(podman container inspect --format '{{.State.Running}}' mover 2>/dev/null)" = true ]; then
    # shellcheck disable=SC2086 # a list of options
    exec podman exec $terminal mover mover "$@"
fi

# What Quadlet made of mover.container, less what makes a service of it.
unit=$(systemctl show --property FragmentPath --value mover.service)
given=$(sed -nE 's/^ExecStart=[^ ]*podman run (.*) serve$/\1/p' "${unit:-/dev/null}" |
    sed -E 's/ (-d|--detach) / /; s/ ?--(replace|(name|cidfile|cgroups|sdnotify)[= ][^ ]+)//g; s/ --health-[a-z-]+[= ]("[^"]*"|[^ ]+)//g')
[ -n "$given" ] || {
    echo "error: systemd knows no mover.service that is a container." >&2
    echo "   do: install mover.container into /etc/containers/systemd, then: systemctl daemon-reload" >&2
    exit 2
}
# The unit's words are quoted as a shell quotes them.
eval "exec podman run $terminal --no-healthcheck $given \"\$@\""
