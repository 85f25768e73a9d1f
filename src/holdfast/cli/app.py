"""The program: its commands, and what becomes of errors.

Exit codes: 0 done; 1 the work failed, or not everything is proven; 2 wrong use; 3 data at risk: bytes on a medium are
not what they were; 4 an operator is needed at the library; 5 somebody else works on the vault; 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from holdfast import __version__
from holdfast.cli import (
    archive,
    custody,
    doctor,
    init,
    listing,
    rebuild,
    release,
    restore,
    scrub,
    status,
    stopping,
    store,
    tape,
    verify,
)
from holdfast.cli.asking import asker
from holdfast.cli.show import print_error, print_line
from holdfast.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, HoldfastError, Interrupted
from holdfast.tape.changer.opening import ask_with

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 data at risk, 4 operator needed, 5 vault in use, 130 Ctrl-C."

app = typer.Typer(
    help="Holdfast takes measurements from a folder to two verified tapes, and loses nothing.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def holdfast(
    version: Annotated[  # noqa: ARG001 - acted on by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error happened (or set HOLDFAST_DEBUG).")
    ] = False,
) -> None:
    """Holdfast takes measurements from a folder to two verified tapes, and loses nothing."""
    if debug:
        os.environ["HOLDFAST_DEBUG"] = "1"


app.command("archive")(archive.archive)
app.command("restore")(restore.restore)
app.command("ls")(listing.ls)
app.command("get")(restore.get)
app.command("cat")(restore.cat)
app.command("custody")(custody.custody)
app.command("verify")(verify.verify)
app.command("scrub")(scrub.scrub)
app.command("release")(release.release)
app.command("collect")(release.collect)
app.command("doctor")(doctor.doctor)
app.command("rebuild")(rebuild.rebuild)
app.command("status")(status.status)
app.command("init")(init.init)
app.add_typer(tape.app, name="tape")
app.add_typer(store.app, name="store")


def main() -> NoReturn:
    """Run the command line of this process and end the process."""
    stopping.listen()
    ask_with(asker())
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())  # no traceback when Ctrl-C cuts a closing short
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code. Only a bug shows a traceback, or any error with HOLDFAST_DEBUG set."""
    as_json = "--json" in arguments
    try:
        code = int(app(arguments, standalone_mode=False) or EXIT_DONE)
        # typer makes this code of Ctrl-C; no command of ours returns it
        return _interrupted(as_json=as_json) if code == EXIT_INTERRUPTED else code
    except HoldfastError as error:
        if os.environ.get("HOLDFAST_DEBUG"):
            raise
        print_error(error, as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json=as_json)
    except TyperException as error:
        wrong_use: Any = error  # the class that shows itself is private to typer
        wrong_use.show()
        return int(wrong_use.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        return EXIT_FAILED
    except OSError as error:
        if os.environ.get("HOLDFAST_DEBUG"):
            raise
        print_error(_from_system(error), as_json=as_json)
        return EXIT_FAILED


def _interrupted(*, as_json: bool) -> int:
    print_error(
        Interrupted(
            "stopped; whatever was said to be done is durable",
            hint="run the same command again: it goes on where it stopped",
        ),
        as_json=as_json,
    )
    return EXIT_INTERRUPTED


def _from_system(error: OSError) -> HoldfastError:
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno == errno.EIO:
        return HoldfastError(
            "the disk failed; nothing that was said to be stored is lost",
            place=place,
            found=error.strerror,
            hint="look at the disk and its messages (dmesg), then run the same command again",
        )
    return HoldfastError(
        "the system refused something",
        place=place,
        found=error.strerror or str(error),
        hint="mend that, then run the same command again; HOLDFAST_DEBUG=1 shows where it happened",
    )
