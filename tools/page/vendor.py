"""Makes the page's vendored libraries again: fetches pinned packages with `npm pack` and checks every byte.

::

    python tools/page/vendor.py                 writes src/edgereason/server/page/vendor
    python tools/page/vendor.py --check         fails where a file there is not what VENDOR.json says
    python tools/page/vendor.py --axe FOLDER    puts axe-core into FOLDER, for the browser tests

The packages come from the registry that npm is configured for. Each file is taken as the package has it, but:

- a bare import ("preact") becomes a relative one: an import map would be an inline script, which the page's
  policy forbids;
- the reference to a source map goes;
- of KaTeX goes what its HTML output alone needs, a fifth of it: the outlines of stretched signs, and the
  sizes of glyphs. MathML needs only to know which glyphs there are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "src/edgereason/server/page/vendor"


@dataclass(frozen=True, slots=True)
class Package:
    """A release, and what is taken from it: path in the package → name here."""

    name: str
    version: str
    sha256: str
    """Of the package file, as `npm pack` gives it."""
    licence: str
    files: dict[str, str]


PACKAGES: Final = (
    Package(
        name="preact",
        version="11.2.0",
        sha256="3c4456766bd32b6b534d52bf4e9c2a29b33e7eedf6e96ed479300ba1a7888ebf",
        licence="MIT",
        files={"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "hooks.js"},
    ),
    Package(
        name="htm",
        version="3.1.1",
        sha256="2425b9bee11409177bcabc7f32e319926fc6690c1701c0b257c88bdff2d5ba90",
        licence="Apache-2.0",
        files={"dist/htm.module.js": "htm.js"},
    ),
    Package(
        name="marked",
        version="18.2.1",
        sha256="d66c5213fc203466186060105b01f51896764ba64b3797d2620d02e28e34b8ca",
        licence="MIT",
        files={"lib/marked.esm.js": "marked.js"},
    ),
    Package(
        name="katex",
        version="0.19.1",
        sha256="24da5a599eb2fcede2e270b99a6ff48bca816beecc95feeb84e8cccbd1bb34fd",
        licence="MIT",
        files={"dist/katex.min.js": "katex.js"},
    ),
)
AXE: Final = Package(
    name="axe-core",
    version="4.14.1",
    sha256="e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    licence="MPL-2.0",
    files={"axe.min.js": "axe.min.js"},
)


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the files with VENDOR.json; no network")
    parser.add_argument("--axe", type=Path, metavar="FOLDER", help="put axe-core there instead")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit("\n".join(differences(FOLDER)) or None)
    if arguments.axe:
        arguments.axe.mkdir(parents=True, exist_ok=True)
        fetch(AXE, arguments.axe)
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = [(package, fetch(package, FOLDER)) for package in PACKAGES]
    (FOLDER / "LICENSES.txt").write_text(
        "\n\n".join(f"{package.name} {package.version}\n\n{text.strip()}" for package, text in texts) + "\n"
    )
    listing = [
        {
            "name": package.name,
            "version": package.version,
            "licence": package.licence,
            "package_sha256": package.sha256,
            "files": {name: sha256((FOLDER / name).read_bytes()) for name in package.files.values()},
        }
        for package in PACKAGES
    ]
    (FOLDER / "VENDOR.json").write_text(json.dumps(listing, indent=2) + "\n")


def fetch(package: Package, folder: Path) -> str:
    """Writes the package's files there.

    Returns:
        The text of its licence.
    """
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=place,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(place).glob("*.tgz")
        if (found := sha256(archive.read_bytes())) != package.sha256:
            sys.exit(f"{archive.name} has SHA-256 {found}, expected {package.sha256}: it is another package")
        with tarfile.open(archive) as members:
            for path, name in package.files.items():
                source = _relative(_member(members, path))
                (folder / name).write_text(_for_mathml(source) if package.name == "katex" else source)
            return _member(members, "LICENSE")


def differences(folder: Path) -> list[str]:
    """What in the folder is not as its VENDOR.json says, a line each."""
    lines = []
    for package in json.loads((folder / "VENDOR.json").read_text()):
        for name, expected in package["files"].items():
            if (found := sha256((folder / name).read_bytes())) != expected:
                lines.append(f"{name} has SHA-256 {found}, VENDOR.json says {expected}")
    return lines


def sha256(data: bytes) -> str:
    """The hash in hex."""
    return hashlib.sha256(data).hexdigest()


def _member(members: tarfile.TarFile, path: str) -> str:
    file = members.extractfile(f"package/{path}")
    assert file is not None
    return file.read().decode()


def _relative(source: str) -> str:
    source = source.replace('from"preact"', 'from"./preact.js"')
    return re.sub(r"\n?//# sourceMappingURL=.*\s*$", "\n", source)


def _for_mathml(source: str) -> str:
    """KaTeX without outlines and glyph sizes; see the module's docstring."""
    source, num_outlines = re.subn(r"(?<=:)([\"`])M-?\d[^\"`]{60,}\1", '""', source)
    begin = source.index('"AMS-Regular":{')
    end = source.index("}}", source.index('"Typewriter-Regular":{'))
    sizes, num_glyphs = re.subn(r"\[[-\d.,e]*\]", "1", source[begin:end])
    if num_outlines < 40 or num_glyphs < 1000:
        sys.exit(f"KaTeX has another form: {num_outlines} outlines and {num_glyphs} sizes were found")
    return source[:begin] + sizes + source[end:]


if __name__ == "__main__":
    main()
