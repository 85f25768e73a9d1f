r"""The words of a restore script: a POSIX shell script for mt, GNU tar and GNU coreutils. Pure.

Names are bytes, and a script is read by people, sent by mail and run under any locale. So each name stands as a format
of printf(1): printable ASCII as it is, every other byte, and what the shell or printf would take for more than itself,
as `\NNN` in octal. A name on a line of its own is never read as anything else: names hold no newline in this form.
"""

from __future__ import annotations

from holdfast.tape.checksums import encode_line

END_OF_LIST = "END_OF_LIST"
"""Ends the lists. No name is this, as each begins with its source and a slash, and no line of a checksum is."""

_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b"\\%'\"`$")
"""A space is not plain either, so that no editor and no mail drops one at the end of a line."""


def printf_form(name: bytes) -> str:
    """A name as a format of printf, which gives the very bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in name)


def quoted(name: bytes) -> str:
    """A name as an argument for the script's functions: in single quotes, in the form of printf."""
    return f"'{printf_form(name)}'"


def sum_form(sha256: bytes, name: bytes) -> str:
    """The line that `sha256sum -c` reads for a file, in the form of printf and without its newline."""
    return printf_form(encode_line(sha256, name).removesuffix(b"\n")).replace("\\040", " ")


def seconds_form(time_ns: int) -> str:
    """A time as `touch -d` of GNU coreutils takes it: `@1795215600.000000007`."""
    sign, time_ns = ("-", -time_ns) if time_ns < 0 else ("", time_ns)
    return f"@{sign}{time_ns // 10**9}.{time_ns % 10**9:09d}"


def head(what: str, to: bytes, made_by: str) -> str:
    """The begin of a script that restores `what` into the folder `to`, unless another is given."""
    return _HEAD.replace("@WHAT@", what).replace("@BY@", made_by).replace("@TO@", quoted(to))


TAIL = """
if [ "$failed" -ne 0 ]; then
  say "NOT everything could be restored: see the problems above. Files that were named FAILED hold wrong bytes."
  say "What one cartridge lacks, its twin may have: run this again with TWIN=yes into another folder."
  exit 1
fi
say "all is restored to $TO, and every file has the SHA-256 that it had when it was archived"
"""

_HEAD = r"""#!/bin/sh
# Restores @WHAT@, with mt, GNU tar and GNU coreutils alone.
# Made by @BY@, which it does not need.
#
#   sh SCRIPT [DIR]                       into DIR
#   TAPE=/dev/nst1 sh SCRIPT              with this drive (one that does not rewind; without TAPE: /dev/nst0)
#   TAPE_DIR=DIR sh SCRIPT                from plain files: the folder of a virtual cartridge, or the one around several
#   TWIN=yes sh SCRIPT                    from the other cartridge of each pair, which holds the same
#   AGAIN=yes sh SCRIPT                   into a folder that is not empty; files in the way are replaced
#   ANSWERS=FILE sh SCRIPT                reads from FILE, not from the terminal, that a cartridge was loaded
#
# Names stand as formats of printf(1): \NNN is a byte, in octal. Exit codes: 0 all is restored, 1 not all, 2 wrong use,
# 4 a cartridge is not there.

set -u
LC_ALL=C.UTF-8
export LC_ALL
umask 077
TAPE=${TAPE:-/dev/nst0}
TAPE_DIR=${TAPE_DIR:-}
TWIN=${TWIN:-no}
AGAIN=${AGAIN:-no}
ANSWERS=${ANSWERS:-/dev/tty}
failed=0
user=$(id -u)

say() { printf '%s\n' "$*" >&2; }
problem() { failed=1; say "PROBLEM: $*"; }
give_up() { code=$1; shift; say "$*"; exit "$code"; }

# name: the bytes of $1, which is a format of printf
decode() { name=$(printf -- "$1."); name=${name%.}; }

# the folder that $name lies in
make_parent() { case $name in */*) mkdir -p -- "./${name%/*}" ;; esac; }

# archive: tape file $1, the drive standing at it
at() {
  if [ -n "$TAPE_DIR" ]; then
    archive=$dir/$(printf '%05d' "$1")
  else
    archive=$TAPE
    mt -f "$TAPE" rewind && { [ "$1" -eq 0 ] || mt -f "$TAPE" fsf "$1"; }
  fi
}

# tar with what every extraction needs; names are taken as they are
extract() {
  tar -b "$factor" --force-local --numeric-owner --no-recursion --no-wildcards --occurrence=1 \
    --null --verbatim-files-from --no-unquote -f "$archive" -T "$work/names" "$@"
}

label_names_it() {
  printf 'VOLUME.json\000' >"$work/names"
  at 0 && extract -x -O | grep -q "\"barcode\": \"$barcode\""
}

# cartridge BARCODE TWIN FACTOR: from now on tape files are those of this cartridge
cartridge() {
  barcode=$1
  [ "$TWIN" = yes ] && barcode=$2
  factor=$3
  if [ -n "$TAPE_DIR" ]; then
    dir=$TAPE_DIR
    [ -d "$TAPE_DIR/$barcode" ] && dir=$TAPE_DIR/$barcode
    label_names_it 2>/dev/null || give_up 4 "cartridge $barcode is not in $TAPE_DIR"
    return
  fi
  until mt -f "$TAPE" setblk 0 2>/dev/null && label_names_it 2>/dev/null; do
    say "Load cartridge $barcode into $TAPE, then press Enter."
    read -r _ <"$ANSWERS" || give_up 4 "cartridge $barcode is not in $TAPE"
  done
}

# tape_file N: extract the names on standard input from tape file N
tape_file() {
  while IFS= read -r line; do printf -- "$line\\000"; done >"$work/names"
  say "$barcode tape file $1"
  at "$1" && extract -x -p || problem "not all could be read from tape file $1 of $barcode"
}

# copy N MEMBER NAME: the bytes of a member of tape file N by another name
copy() {
  decode "$2"
  printf '%s\000' "$name" >"$work/names"
  decode "$3"
  make_parent
  rm -f -- "./$name"
  at "$1" && extract -x -O >"./$name" || problem "a file could not be read from tape file $1 of $barcode"
}

# check: compare files with the lines of sha256sum on standard input
check() {
  while IFS= read -r line; do printf -- "$line\\n"; done >"$work/sums"
  sha256sum --quiet --strict -c "$work/sums" || problem "not all files from $barcode are what was archived"
}

folder() { decode "$1"; mkdir -p -- "./$name" || problem "a folder could not be made"; }

# link FIRST NAME: a further name of a file
link() {
  decode "$1"
  first=$name
  decode "$2"
  make_parent
  [ "./$first" -ef "./$name" ] || ln -f -- "./$first" "./$name" || problem "a hard link could not be made"
}

# dress MODE TIME UID GID NAME
dress() {
  decode "$5"
  { [ "$user" -ne 0 ] || chown -- "$3:$4" "./$name"; } && chmod -- "$1" "./$name" && touch -d "$2" -- "./$name" ||
    problem "mode and time of a file or folder could not be set"
}

if [ $# -gt 0 ]; then TO=$1; else decode @TO@; TO=$name; fi
case $TAPE in /*) ;; *) TAPE=$PWD/$TAPE ;; esac
case $TAPE_DIR in '' | /*) ;; *) TAPE_DIR=$PWD/$TAPE_DIR ;; esac
case $ANSWERS in /*) ;; *) ANSWERS=$PWD/$ANSWERS ;; esac
mkdir -p -- "$TO" && cd -- "$TO" || give_up 1 "$TO cannot be made"
[ "$AGAIN" = yes ] || [ -z "$(ls -A)" ] || give_up 2 "$TO is not empty; AGAIN=yes replaces what is in the way"
TO=$PWD
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"""
