"""What each layer of isolation holds on this machine: the forgeries and attacks of tests/attacks.py, as a table.

    python benchmarks/containment.py [--layers bubblewrap namespaces subreaper]

Run it as root and as another user: what a layer can do differs. About a minute and a half a layer.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from attacks import ATTACKS, attacked
from forgeries import FORGERIES, forged
from kin import KIN
from relatives import RELATIVES

from repo_agent.sandbox import canary
from repo_agent.sandbox.isolate import LAYERS, Isolation


def main() -> None:
    parser = argparse.ArgumentParser(description="What each layer of isolation holds on this machine.")
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    options = parser.parse_args()
    faults = {layer: canary.fault(layer) for layer in options.layers}
    print(f"as {'root' if os.geteuid() == 0 else 'an unprivileged user'}; default layer: {canary.choose(True).name}")
    print("\n".join(f"{layer} cannot be had: {fault}" for layer, fault in faults.items() if fault))
    layers = [layer for layer, fault in faults.items() if not fault]
    print(f"{'':38}" + "".join(f"{layer:16}" for layer in layers))
    notes = []
    for name in ATTACKS:
        findings = {layer: attacked(name, Isolation(layer)) for layer in layers}
        cells = [f"{'held' if not found.why else 'NOT HELD'} {found.seconds:4.1f} s" for found in findings.values()]
        print(f"{name:38}" + "".join(f"{cell:16}" for cell in cells), flush=True)
        notes += [f"{name}, {layer}: {found.why}" for layer, found in findings.items() if found.why]
    for name, forgery in (FORGERIES | RELATIVES | KIN).items():
        outcomes = [forged(forgery, Isolation(layer)).outcome for layer in layers]
        print(f"{name:38}" + "".join(f"{outcome:16}" for outcome in outcomes), flush=True)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
