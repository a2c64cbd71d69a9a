#!/bin/sh
# Tells the edge agent of the model in this folder, until SIGTERM: register.sh COMPONENT VERSION AUTOSTART FOLDER
#
#   FOLDER/COMPONENT.json   the registration: appears whole, and leaves with this script unless another version has written its own
set -eu
component=${1:?expected: register.sh COMPONENT VERSION AUTOSTART FOLDER}
version=${2:?}
autostart=${3?}
registry=${4:?}
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
entry="$registry/$component.json"

quoted() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

leave() {
    if [ "$(cat "$entry" 2>/dev/null)" = "$registration" ]; then rm -f "$entry"; fi
    [ -z "${!:-}" ] || kill -KILL "$!" || : # a milder signal is lost on a child that is no sleep yet
    exit 0
}

registration=$(printf '{"component": "%s", "version": "%s", "folder": "%s", "autostart": "%s"}' \
    "$(quoted "$component")" "$(quoted "$version")" "$(quoted "$here")" "$(quoted "$autostart")")
if ! mkdir -p "$registry" || ! printf '%s\n' "$registration" >"$entry.$$.part"; then
    printf 'linewatch: the model cannot be registered in %s: %s may not write there. %s\n' "$registry" "$(id -un)" \
        "Name a folder that it and the agent share in the configuration keys RegistrationFolder here and Models of the agent" >&2
    exit 1
fi
trap leave TERM INT
mv "$entry.$$.part" "$entry"
while :; do
    sleep 3600 &
    wait "$!" || :
done
