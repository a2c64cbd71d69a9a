#!/bin/sh
# Installs the agent below WORK, without a network: install.sh WORK
#
#   WORK/agent-VERSION   a virtual environment and run.sh, made under another name and renamed when it is whole and checked
#   WORK/current         points at the one that run.sh starts; switched last, in one step
#
# Interrupted at any moment, what was there before still starts; running it again finishes or repeats the work.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "${1:?expected: install.sh WORK}"
work=$(CDPATH= cd -- "$1" && pwd) # nucleus lite ends it in a slash; programs of an environment name it without
version=$(cat "$here/VERSION")
target="$work/agent-$version"
part="$work/.agent-$version.part"

say() { printf 'linewatch: %s\n' "$*" >&2; }

find_python() {
    if [ -n "${LINEWATCH_PYTHON:-}" ]; then printf '%s\n' "$LINEWATCH_PYTHON"; return; fi
    if [ -f "$here/python.tar.gz" ]; then
        if [ ! -x "$work/python-$version/python/bin/python3.11" ]; then
            rm -rf "$work/.python-$version.part"
            mkdir -p "$work/.python-$version.part"
            tar -xzf "$here/python.tar.gz" -C "$work/.python-$version.part"
            rm -rf "$work/python-$version"
            mv "$work/.python-$version.part" "$work/python-$version"
        fi
        printf '%s\n' "$work/python-$version/python/bin/python3.11"
        return
    fi
    command -v python3.11 || true
}

if [ -x "$target/bin/linewatch" ] && "$target/bin/linewatch" doctor >/dev/null 2>&1; then
    say "version $version is installed already"
else
    python=$(find_python)
    if [ -z "$python" ] || ! "$python" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        say "Python 3.11 was not found (looked at: ${python:-python3.11 in PATH}). Install it where the component's user can run it," \
            "name it in the configuration key Python, or make this component with: linewatch agent-component --python ARCHIVE"
        exit 1
    fi
    rm -rf "$part" "$target"
    if ! "$python" -P -m venv "$part"; then
        say "the module venv of $python does not work; on Debian and Ubuntu: apt-get install python3.11-venv"
        exit 1
    fi
    "$part/bin/python" -P -m pip install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" --require-hashes \
        -r "$here/requirements.txt"
    # Each missing library is named here, with its remedy, and nothing has been switched over yet.
    "$part/bin/python" -P -m linewatch doctor >&2
    cp "$here/run.sh" "$part/run.sh"
    # Programs of an environment name its folder: they are written again for the final one.
    "$python" -P -m venv --upgrade "$part" >/dev/null 2>&1 || true
    for script in "$part"/bin/*; do
        [ -f "$script" ] && [ ! -L "$script" ] && sed -i "s|$part|$target|g" "$script"
    done
    sync
    mv "$part" "$target"
fi
ln -sfn "agent-$version" "$work/.current.part"
mv -T "$work/.current.part" "$work/current"
for old in "$work"/agent-* "$work"/python-*; do
    case "$old" in "$target" | "$work/python-$version" | *'*') ;; *) rm -rf "$old" ;; esac
done
say "version $version is ready"
