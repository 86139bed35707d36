"""`python -m attestd_demo [--stay]`: the whole story, told on embedded defaults (SQLite, software TPMs).

Without --stay it plays in a folder of its own that is removed afterwards, and exits with 0 only if every step came out
as it should. With --stay it plays in the instance under --dir, which is made if needed and kept, and stays up.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from attestd_demo.play import Play
from attestd_demo.story import Story
from attestd_demo.world import World


def main() -> int:
    """The entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="attestd_demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stay", action="store_true", help="keep the instance, and stay up until Ctrl-C")
    parser.add_argument("--dir", type=Path, default=Path(".attestd"), help="the instance's folder, with --stay")
    options = parser.parse_args()
    scratch = None if options.stay else Path(tempfile.mkdtemp(prefix="attestd-demo-"))
    world = World(options.dir.resolve() if scratch is None else scratch / "instance")
    story = Story()
    started = time.monotonic()
    try:
        Play(story, world).run()
        if options.stay:
            _stay(story, world)
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
    finally:
        world.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{time.monotonic() - started:.1f} s in all")
    print(story.conclusion(), flush=True)
    return 0 if story.steps and story.steps == story.as_expected else 1


def _stay(story: Story, world: World) -> None:
    if world.gadgets:
        world.start_daemon(world.gadgets[0])
    print(f"\n{story.conclusion()}\n")
    print(f"  service   {world.url}   (root certificate: {world.dir}/ca/root.pem)")
    print(f"  metrics   {world.url}/metrics      keys {world.url}/v1/jwks      CRL {world.url}/v1/crl")
    print(f"  edge      {world.origin}/readings")
    print(f"  console   {world.first_link()}   (good once; the browser has to trust the root: docs/console.md)")
    print(f"  operate   {Path(sys.executable).parent}/attestd devices list --dir {world.dir}")
    print("\nUp until Ctrl-C; the device bike-berlin renews by itself.", flush=True)
    while world.service is not None and world.service.poll() is None:
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
