"""Facts of kdx/models/locking.py."""

import pytest
import torch

from kdx.models.architectures import build_model, read_architecture
from kdx.models.clip import ClipModel
from kdx.models.locking import lock


def _train_a_step(model: ClipModel) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    tokens = torch.tensor([[49406, 320, 49407], [49406, 1125, 49407]])
    image, text = model.encode_image(torch.rand(2, 3, 32, 32), normalize=True), model.encode_text(tokens)
    (image * text * model.logit_scale).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("towers", "moved"),
    [(["image"], {"text", "scale"}), (["text"], {"image", "scale"}), ([], {"image", "text", "scale"})],
)
def test_a_step_moves_what_is_not_locked(towers: list[str], moved: set[str]) -> None:
    """Weights and batch statistics alike."""
    model = build_model(read_architecture("kdx-mini"))
    lock(model, towers)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _train_a_step(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    towers_changed = {
        "scale" if name == "logit_scale" else "image" if name.startswith("visual.") else "text"
        for name in changed
    }
    assert towers_changed == moved
    if "image" in moved:
        assert any("running_mean" in name for name in changed)


def test_a_locked_tower_stays_in_evaluation_mode_and_the_other_does_not() -> None:
    model = build_model(read_architecture("kdx-mini"))
    lock(model, ["image"])
    model.train()
    assert model.training and model.text_tower.transformer.training
    assert not any(module.training for module in model.visual.modules())


def test_a_text_tower_that_is_its_own_module_is_locked_whole() -> None:
    model = build_model(read_architecture("kdx-mini").changed(custom_text=True))
    lock(model, ["text"])
    model.train()
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free == {name for name, _ in model.named_parameters() if not name.startswith("text.")}
    assert not any(module.training for module in model.text_tower.modules()) and model.visual.training


def test_the_state_dict_keeps_its_names() -> None:
    model = build_model(read_architecture("kdx-mini"))
    names = list(model.state_dict())
    lock(model, ["image", "text"])
    assert list(model.state_dict()) == names
