#!/bin/sh
# Makes the environment of `make setup`, or keeps the one that is there if it will do; says what it runs.
#
#   make_environment.sh FOLDER               with the interpreter that find_python.sh finds
#   make_environment.sh FOLDER INTERPRETER   with the one that was named
#
# One that is there will do if its own interpreter would, has pip, and is of the version that was named. Else it is made
# anew from nothing: over an old one, venv leaves the link to the old interpreter as it is.
set -eu

scripts=$(dirname "$0")
folder=$1 named=${2:-}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null
}

will_do() {
    sh "$scripts/find_python.sh" "$folder/bin/python" >/dev/null 2>&1 &&
        "$folder/bin/python" -c 'import pip' >/dev/null 2>&1 </dev/null &&
        { [ -z "$named" ] || [ "$(version_of "$folder/bin/python")" = "$(version_of "$named")" ]; }
}

create() { # INTERPRETER [OPTION]
    echo "$1 -m venv${2:+ $2} $folder"
    exec "$1" -m venv ${2:+"$2"} "$folder"
}

[ -z "$named" ] || sh "$scripts/find_python.sh" "$named" >/dev/null
if will_do; then exit 0; fi
python=$(sh "$scripts/find_python.sh" "$named")
# Only what venv made is emptied.
if [ -f "$folder/pyvenv.cfg" ]; then create "$python" --clear; else create "$python"; fi
