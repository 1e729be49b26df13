"""A file cast as a program of its own, for network tests: cast_program.py send FILE N | receive OUTPUT [SECONDS].

Prints what came of it as JSON, with whom the events of the option `tells` were about; an error of ours as its one line,
with exit status 1.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from imager.errors import ImagerError
from imager.transport.file_cast import FileCastNote, ReceiveOptions, SendOptions
from imager.transport.file_receive import receive_file
from imager.transport.file_send import send_file


def main() -> int:
    what, path, *rest = sys.argv[1:]
    options = json.loads(rest[0]) if rest else {}
    tells = options.pop("tells", [])
    told: list[tuple[str, str]] = []

    def note(note: FileCastNote) -> None:
        if note.what in tells:
            told.append((note.what, note.receiver))

    try:
        if what == "send":
            result: Any = send_file(Path(path), SendOptions(interface="e0", **options), on_note=note)
        else:
            result = receive_file(Path(path), ReceiveOptions(interface="e0", **options))
    except ImagerError as error:
        print(error)
        return 1
    print(json.dumps(dataclasses.asdict(result) | ({"told": told} if tells else {}), default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
