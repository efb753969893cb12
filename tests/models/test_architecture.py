"""Facts of kdx/models/architecture.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from kdx.core.digests import value_digest
from kdx.core.errors import UsageError
from kdx.models.architecture import Architecture, TextConfig, VisionConfig, read_architecture
from kdx.models.foreign.known import known_architectures


@pytest.mark.parametrize(("ours", "theirs"), [(VisionConfig, CLIPVisionCfg), (TextConfig, CLIPTextCfg)])
def test_a_towers_typed_settings_have_open_clips_names_and_defaults(ours: Any, theirs: Any) -> None:
    defaults = asdict(theirs())
    defaults |= {"hf_config": None, "timm_act": None}  # kdx's own, for which open_clip has no setting
    assert ours().model_dump() == {name: defaults[name] for name in ours.model_fields}


def test_every_known_architecture_is_read_again_from_what_it_is_written_as() -> None:
    for known in known_architectures():
        again = Architecture.model_validate(known.to_dict())
        assert again == known and again.to_dict() == known.to_dict()


def test_what_is_written_is_what_was_given_without_defaults_so_that_digests_stay() -> None:
    """The digest of kdx-mini's description, as checkpoints have carried it since architectures were tables."""
    given: dict[str, Any] = {
        "name": "x",
        "embed_dim": 8,
        "vision_cfg": {
            "image_size": 32,
            "layers": [1, 1, 1, 1],
            "mlp_ratio": 4,
            "norm_kwargs": {"eps": 1e-6},
        },
        "text_cfg": {},
        "init_logit_bias": -10,
    }
    assert value_digest(Architecture.model_validate(given).to_dict()) == value_digest(given)
    digest = value_digest(read_architecture("kdx-mini").to_dict())
    assert digest == "2ad117264634e367ea6c6c5419d20e6980f26e0e2910b1652ade810c6c8af87e"


def test_a_changed_copy_prepares_images_by_its_own_settings() -> None:
    mini = read_architecture("kdx-mini")
    assert mini.preprocess.image_size == 32
    assert mini.changed(vision_cfg=mini.vision_cfg.changed(image_size=64)).preprocess.image_size == 64


def test_a_name_is_resolved_once() -> None:
    assert read_architecture("timm:test_vit") is read_architecture("timm:test_vit")
    with pytest.raises(UsageError):
        read_architecture("nothing like it")


def test_recipes_of_shipped_students_are_resolved_without_torch_and_torchvision_imports_after_it() -> None:
    """torchvision's general wheel does not import beside a CPU-only torch by itself."""
    program = (
        "import sys; from kdx.distill.recipe import read_recipe, recipe_names\n"
        "from kdx.models.architecture import shipped_names\n"
        "recipes = [read_recipe(name) for name in recipe_names()]\n"
        "[recipe.architecture for recipe in recipes if recipe.student in shipped_names()]\n"
        "assert 'torch' not in sys.modules\n"
        "import open_clip, torchvision"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
