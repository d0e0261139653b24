"""What the tests of the demo corpus share: a few hundred scenes, made once."""

from __future__ import annotations

import pytest

from bcls_core.config.ingest import DemoIngest
from bcls_core.data.demo.captions import tell
from bcls_core.data.demo.scenes import CAPTION_STREAM, Scene, dice_of, make_scene

SEED = 7


@pytest.fixture(scope="session")
def demo_settings() -> DemoIngest:
    return DemoIngest(source="demo", train=30, val=8, test=12, seed=SEED)


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [make_scene(SEED, "train", index) for index in range(800)]


@pytest.fixture(scope="session")
def told(scenes: list[Scene]) -> list[tuple[Scene, list[str]]]:
    """Every scene with its captions."""
    return [(scene, tell(scene, dice_of(SEED, "train", k, CAPTION_STREAM))) for k, scene in enumerate(scenes)]
