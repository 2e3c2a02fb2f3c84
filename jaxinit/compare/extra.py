"""The packages of the extra `compare`; importing this says which are missing."""

from importlib.util import find_spec

NEEDED = "flax optax rich tyro matplotlib sklearn pyarrow scipy".split()

if missing := [package for package in NEEDED if find_spec(package) is None]:
    raise ModuleNotFoundError(
        f"jaxinit.compare needs {', '.join(missing)}; run: pip install "
        "'jaxinit[compare]'",
        name=missing[0],
    )
