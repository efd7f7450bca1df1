"""Run tests in a host's own process: python run.py COMFYUI_DIR CHECKPOINTS PYTEST_FOLDER arguments-of-pytest...

The host's folder comes first on the path, as when its main.py runs; ours and pytest's come last.
"""

import os
import sys
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[4]


def main(comfyui, checkpoints, pytest_folder, *arguments):
    sys.path[0] = comfyui
    sys.path += [str(HERE), str(ROOT / "tests"), str(ROOT), pytest_folder]
    os.environ |= {"MIST_CHECKPOINTS": checkpoints, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    from comfy.cli_args import args

    args.cpu = True
    import pytest

    # Our own addopts name a folder that is relative to ours, and this process is in the host's.
    own = [
        "-o",
        "addopts=-q --strict-markers",
        f"--rootdir={ROOT}",
        f"--confcutdir={HERE}",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    ]
    return pytest.main([*own, *arguments])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
