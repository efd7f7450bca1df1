"""Run by the web UI (with its own folder on the path) and by ComfyUI-Manager. Installs at most omegaconf."""

import importlib.util
import subprocess
import sys

REQUIREMENT = "omegaconf>=2.2,<3"


def main() -> None:
    if importlib.util.find_spec("omegaconf") is not None:
        return
    if importlib.util.find_spec("launch") is not None:  # the web UI's own installer, which says what it does
        from launch import run_pip  # pyright: ignore[reportMissingImports]

        run_pip(f'install "{REQUIREMENT}"', "omegaconf for Mist")
        return
    sys.stdout.write(f'Mist needs omegaconf: "{sys.executable}" -m pip install "{REQUIREMENT}"\n')


if __name__ == "__main__":
    try:
        main()
    except (subprocess.SubprocessError, RuntimeError) as error:
        sys.stdout.write(f"Mist could not install {REQUIREMENT}: {error}\n")
