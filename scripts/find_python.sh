#!/bin/sh
# Prints the interpreter that `make setup` makes the environment with; else says on stderr what is missing, and exits 2.
#
#   find_python.sh              python3 if it will do, else the newest python3.NN on the PATH that does
#   find_python.sh INTERPRETER  the one that was named, if it will do
#
# One will do if it runs, is as new as pyproject.toml asks for, and can make environments: Debian, for one, has the
# modules for that in a package of their own.
set -eu

oldest_minor=$(sed -n 's/^requires-python = ">=3\.\([0-9]*\)"$/\1/p' "$(dirname "$0")/../pyproject.toml")
needed="QLLM needs Python 3.$oldest_minor or newer"

fail() {
    printf 'make setup: %s\n' "$1" >&2
    exit 2
}

# Prints "3.NN"; nothing if the command cannot be run, as a shim for a version that is not installed.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}

is_new_enough() { # VERSION
    case $1 in
        3.*) [ "${1#3.}" -ge "$oldest_minor" ] ;;
        [4-9].*) true ;;
        *) false ;;
    esac
}

# Prints the first of the modules for environments that is not there; nothing if both are.
missing_module() {
    for module in venv ensurepip; do
        "$1" -c "import $module" >/dev/null 2>&1 </dev/null || { echo "$module"; return; }
    done
}

say_missing() { # INTERPRETER VERSION MODULE
    fail "$1 is Python $2, but its module $3 is missing, without which it makes no environment. On Debian and Ubuntu: \
apt-get install python$2-venv. Or name another interpreter: make setup PYTHON=/path/to/python3"
}

check_named() {
    command -v "$1" >/dev/null || fail "there is no $1 here. $needed; name the one you have: make setup PYTHON=python3"
    version=$(version_of "$1")
    [ -n "$version" ] || fail "$1 cannot be run. $needed; name one that can: make setup PYTHON=python3"
    is_new_enough "$version" || fail "$1 is Python $version. $needed; name one: make setup PYTHON=/path/to/python3"
    module=$(missing_module "$1")
    [ -z "$module" ] || say_missing "$1" "$version" "$module"
    echo "$1"
}

# Prints the paths of python3.NN on the PATH, the newest first; of two with one name, the first on the PATH first.
numbered() {
    printf '%s\n' "$PATH" | tr ':' '\n' | while IFS= read -r folder; do
        for path in "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9]; do
            if [ -f "$path" ] && [ -x "$path" ]; then printf '%s %s\n' "${path##*.}" "$path"; fi
        done
    done | sort -s -k 1,1nr | cut -d ' ' -f 2-
}

search() {
    found='' unfit=''
    while IFS= read -r path; do
        version=$(version_of "$path")
        [ -n "$version" ] || continue
        found="$found${found:+, }$path ($version)"
        is_new_enough "$version" || continue
        module=$(missing_module "$path")
        if [ -z "$module" ]; then
            echo "$path"
            exit 0
        fi
        unfit=${unfit:-"$module $version $path"}
    done <<EOF
$(command -v python3 || true)
$(numbered)
EOF
    if [ -n "$unfit" ]; then
        module=${unfit%% *} rest=${unfit#* }
        say_missing "${rest#* }" "${rest%% *}" "$module"
    fi
    fail "$needed. Found here: ${found:-no Python 3 at all}. Install one, or name one that the PATH does not \
lead to: make setup PYTHON=/path/to/python3"
}

if [ -n "${1:-}" ]; then
    check_named "$1"
else
    search
fi
