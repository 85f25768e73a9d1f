#!/usr/bin/env bash
# Archives a folder to a vault of simulated tapes, restores it beside, and compares the two. `make demo` runs it.
#   SOURCE=DIR  what to archive; else some packages of Python's own library
#   VAULT=DIR   where the vault goes; else build/demo-vault
# Writes to VAULT and build/demo-restored only; the latter is made anew each time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

holdfast=.venv/bin/holdfast
vault="${VAULT:-build/demo-vault}"
restored=build/demo-restored
export PYTHONDONTWRITEBYTECODE=1 # Python's library must not grow cache files between archive and comparison

if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}

if [ -n "${SOURCE:-}" ]; then
    sources=("$(cd "$SOURCE" && pwd)")
    say "Source: ${sources[0]}"
else
    library="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
    sources=()
    for name in asyncio ctypes email encodings unittest; do
        if [ -d "$library/$name" ]; then sources+=("$library/$name"); fi
    done
    say "Source: ${#sources[@]} folders of Python's own library under $library"
    echo "(it is on every machine and has a few hundred small files; SOURCE=DIR chooses your own)"
fi

say "1. Archive to $vault"
run "$holdfast" archive "${sources[@]}" --vault "$vault"

say "2. Restore to $restored"
if [ -e "$restored" ]; then
    chmod -R u+rwX "$restored"
    rm -rf "$restored"
fi
mkdir -p "$restored"
run "$holdfast" restore --vault "$vault" --to "$restored"

say "3. Compare"
for source in "${sources[@]}"; do
    # A restored source is found by its folder's name or by its whole path.
    if [ -d "$restored/$(basename "$source")" ]; then
        copy="$restored/$(basename "$source")"
    elif [ -d "$restored$source" ]; then
        copy="$restored$source"
    else
        copy="$restored"
    fi
    run diff -r --no-dereference "$source" "$copy"
done
echo "restored tree is identical"

say "4. What the vault holds"
run "$holdfast" status --vault "$vault"
run "$holdfast" tape list --vault "$vault"
