"""Makes the built-in data set ``shapes`` from KiCad's library, as Debian's package kicad-packages3d unpacks.

    python packages/pointcloud/tools/make_shapes.py FOLDER

FOLDER holds ``usr``, as ``dpkg-deb -x`` writes it. Only shapes that Debian's copyright file puts under
CC-BY-SA 4.0, and whose own header does not say otherwise, are taken: some of the library are under the GPL.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from polymask.data import Split, class_numbers
from polymask_pointcloud.datasets.cad import divide, family, kind, sample

CLASSES = ("Capacitor", "Connector", "Diode", "Display", "Inductor", "LED", "Package", "Resistor")
EACH, TEST, POINTS = 60, 12, 1024
TO = Path(__file__).parents[1] / "src/polymask_pointcloud/samples/shapes"


def main(folder: Path) -> None:
    """Write points, and what they are, with their owners."""
    root = folder / "usr/share/kicad/3dmodels"
    licences = read_copyright(folder / "usr/share/doc/kicad-packages3d/copyright")
    paths: dict[str, Path] = {}
    owners: dict[str, str] = {}
    for path in sorted(root.glob("*/*.wrl")):
        name = f"{path.parent.name}/{path.stem}"
        head = path.read_text(encoding="latin-1")[:4000]
        file = f"{path.parent.name}/{path.name}"
        owner, licence = next(found[1:] for found in reversed(licences) if fnmatch.fnmatch(file, found[0]))
        if kind(name) in CLASSES and licence.startswith("CC-BY-SA-4.0") and not re.search("GNU|GPL", head):
            stated = re.search(r"Copyright \(C\) ([^\n]*)", head)
            paths[name], owners[name] = path, stated[1].strip() if stated else owner
    names = sorted(paths)
    whole = Split(Names(names), torch.arange(len(names)), class_numbers(map(kind, names), CLASSES))
    train, test = divide(whole, [family(name) for name in names], 0.25)
    listing, places = [], []
    for word in CLASSES:
        for split, split, count in (("train", train, EACH - TEST), ("test", test, TEST)):
            mine = [names[i] for i in split.index.tolist() if kind(names[i]) == word]
            for name in varied(mine, count):
                shape = sample(paths[name], POINTS)
                assert not isinstance(shape, str), (name, shape)
                listing.append({"name": name, "class": word, "split": split, "copyright": owners[name]})
                places.append(shape[:, :3])
    TO.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TO / "shapes.npz", points=np.stack(places))
    (TO / "shapes.json").write_text(json.dumps(listing, indent=0) + "\n", encoding="utf-8")
    print(len(listing), "shapes,", (TO / "shapes.npz").stat().st_size, "bytes")


class Names:
    """Stands in for a source where nothing is read."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


def varied(names: list[str], count: int) -> list[str]:
    """So many of them, turn by turn one of each family, evenly spaced within a family."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[family(name)].append(name)
    queues = [spread(members) for members in families.values()]
    chosen: list[str] = []
    while len(chosen) < count:
        queues = [queue for queue in queues if queue]
        assert queues, f"{len(names)} shapes, {count} wanted"
        chosen += [queue.pop(0) for queue in queues]
    return sorted(chosen[:count])


def spread(members: list[str]) -> list[str]:
    """In an order whose beginnings lie evenly among all."""
    return sorted(members, key=lambda name: (members.index(name) * 0.6180339887) % 1)


def read_copyright(path: Path) -> list[tuple[str, str, str]]:
    """Patterns, owners and licences of a Debian copyright file; the last that fits a file counts."""
    found = []
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(\S+):(.*(?:\n .*)*)", paragraph, re.M))
        if "Files" in fields:
            owner = " ".join(fields["Copyright"].split())
            found += [(pattern, owner, fields["License"].split()[0]) for pattern in fields["Files"].split()]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
