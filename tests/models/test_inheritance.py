"""Facts of kdx/models/inheritance.py, at toy size."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from kdx.core.errors import UsageError
from kdx.models.architectures import Architecture, build_model, read_architecture
from kdx.models.clip import ClipModel
from kdx.models.inheritance import even_layers, inherit
from kdx.models.tower_choice import TowerChoice

TOKENS = torch.tensor([[8, 3, 9, 0, 0, 0], [8, 1, 5, 2, 7, 9]])  # 9 ends a text


def _toy(image: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **top: Any) -> Architecture:
    """A CLIP of two small transformers: width 32 and 24, heads 8 wide, four and three layers."""
    vision = {"image_size": 16, "layers": 4, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 2.0}
    texts = {"context_length": 6, "vocab_size": 10, "width": 24, "heads": 3, "layers": 3, "mlp_ratio": 2.0}
    return Architecture.model_validate(
        {
            "name": "toy",
            "embed_dim": 16,
            "vision_cfg": {**vision, **(image or {})},
            "text_cfg": {**texts, **(text or {})},
            **top,
        }
    )


def _built(architecture: Architecture, seed: int) -> ClipModel:
    """With biases and norms that differ from channel to channel, unlike those of a fresh model."""
    model = build_model(architecture, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def teacher() -> ClipModel:
    return _built(_toy(), seed=1)


def _embed(model: ClipModel) -> tuple[Tensor, Tensor]:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.encode_image(pixels), model.encode_text(TOKENS)


def test_a_student_of_the_teachers_shape_becomes_the_teacher(teacher: ClipModel) -> None:
    student = _built(_toy(), seed=2)
    inherit(student, teacher)
    assert all(map(torch.equal, _embed(student), _embed(teacher)))
    assert torch.equal(student.logit_scale, teacher.logit_scale)
    assert student.state_dict().keys() == teacher.state_dict().keys()
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("custom", [(True, False), (False, True), (True, True)])
def test_where_the_text_tower_is_kept_does_not_matter(custom: tuple[bool, bool]) -> None:
    student, teacher = (_built(_toy(custom_text=each), seed) for seed, each in enumerate(custom))
    inherit(student, teacher)
    assert all(map(torch.equal, _embed(student), _embed(teacher)))


def test_a_causal_tower_does_not_come_from_one_that_sees_all_tokens(teacher: ClipModel) -> None:
    student = _built(_toy(None, {"no_causal_mask": True}), seed=2)
    with pytest.raises(UsageError, match="attention: to all tokens in the student, causal in the teacher"):
        inherit(student, teacher)


def test_a_shallower_student_has_exactly_the_chosen_blocks(teacher: ClipModel) -> None:
    student = _built(_toy({"layers": 2}, {"layers": 2}), seed=2)
    inherit(student, teacher, image=TowerChoice(layers=(1, 3)))
    for tower, old, layers in (
        (student.visual.transformer, teacher.visual.transformer, (1, 3)),
        (student.text_tower.transformer, teacher.text_tower.transformer, (0, 2)),  # the default
    ):
        for block, layer in zip(tower.resblocks, layers, strict=True):  # type: ignore[union-attr,arg-type]
            expected = old.resblocks[layer].state_dict()  # type: ignore[union-attr,index]
            assert all(torch.equal(value, expected[name]) for name, value in block.state_dict().items())
    # the same function as the teacher without its other blocks
    with torch.no_grad():
        blocks = teacher.visual.transformer.resblocks  # type: ignore[union-attr]
        teacher.visual.transformer.resblocks = torch.nn.ModuleList([blocks[1], blocks[3]])  # type: ignore[union-attr,index]
    assert torch.equal(_embed(student)[0], _embed(teacher)[0])


def test_a_narrower_student_gets_the_chosen_rows_and_columns(teacher: ClipModel) -> None:
    """Worked by hand for one weight of each kind; heads are 8 wide, the teacher's tower 32 and its MLP 64."""
    student = _built(_toy({"width": 16, "mlp_ratio": 2.0}), seed=2)
    channels = (31, 2, 5, 7, 11, 13, 17, 19, 23, 29, 0, 1, 3, 4, 6, 8)
    units = tuple(range(63, 31, -1))
    inherit(student, teacher, image=TowerChoice(heads=(3, 1), channels=channels, units=units), text=None)
    mine, theirs = student.visual.state_dict(), teacher.visual.state_dict()
    rows = [*range(24, 32), *range(8, 16)]  # of heads 3 and 1
    block = "transformer.resblocks.2."
    for name, expected in {
        "conv1.weight": theirs["conv1.weight"][list(channels)],
        "class_embedding": theirs["class_embedding"][list(channels)],
        "positional_embedding": theirs["positional_embedding"][:, list(channels)],
        "ln_pre.bias": theirs["ln_pre.bias"][list(channels)],
        "proj": theirs["proj"][list(channels)],
        block + "ln_1.weight": theirs[block + "ln_1.weight"][list(channels)],
        block + "attn.out_proj.weight": theirs[block + "attn.out_proj.weight"][list(channels)][:, rows],
        block + "attn.out_proj.bias": theirs[block + "attn.out_proj.bias"][list(channels)],
        block + "mlp.c_fc.weight": theirs[block + "mlp.c_fc.weight"][list(units)][:, list(channels)],
        block + "mlp.c_fc.bias": theirs[block + "mlp.c_fc.bias"][list(units)],
        block + "mlp.c_proj.weight": theirs[block + "mlp.c_proj.weight"][list(channels)][:, list(units)],
    }.items():
        assert torch.equal(mine[name], expected), name
    q, k, v = theirs[block + "attn.in_proj_weight"][:, list(channels)].chunk(3)
    assert torch.equal(mine[block + "attn.in_proj_weight"], torch.cat([q[rows], k[rows], v[rows]]))
    q, k, v = theirs[block + "attn.in_proj_bias"].chunk(3)
    assert torch.equal(mine[block + "attn.in_proj_bias"], torch.cat([q[rows], k[rows], v[rows]]))


def test_without_a_choice_the_first_of_everything_is_taken(teacher: ClipModel) -> None:
    default, chosen = (_built(_toy({"width": 16}, {"width": 16, "heads": 2}), seed=2) for _ in range(2))
    inherit(default, teacher)
    first = TowerChoice(heads=(0, 1), channels=tuple(range(16)), units=tuple(range(32)))
    inherit(chosen, teacher, image=first, text=first)
    assert all(map(torch.equal, _embed(default), _embed(chosen)))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(32)), st.permutations(range(64)))
def test_the_order_of_heads_channels_and_units_changes_no_embedding(
    heads: list[int], channels: list[int], units: list[int]
) -> None:
    teacher, student = _built(_toy(), seed=1), _built(_toy(), seed=2)
    inherit(
        student, teacher, image=TowerChoice(heads=tuple(heads), channels=tuple(channels), units=tuple(units))
    )
    assert torch.allclose(_embed(student)[0], _embed(teacher)[0], atol=1e-4)


def test_channels_that_carry_nothing_can_be_left_out() -> None:
    """A wide tower that holds a narrow one in scattered channels, heads and units gives the narrow one back."""
    narrow = _built(_toy(None, {"width": 16, "heads": 2, "layers": 2}), seed=1)
    wide, back = (
        _built(_toy(None, {"layers": 2}), seed=3),
        _built(_toy(None, {"width": 16, "heads": 2, "layers": 2}), 2),
    )
    choice = TowerChoice(heads=(2, 0), channels=(23, *range(1, 16)), units=(47, *range(2, 33)))
    with torch.no_grad():
        _plant(narrow, wide, choice)
    inherit(back, wide, image=None, text=choice)
    assert torch.equal(_embed(back)[1], _embed(narrow)[1])


def _plant(narrow: ClipModel, wide: ClipModel, choice: TowerChoice) -> None:
    """The opposite of inheriting, written with index assignment; text towers."""
    c, u = torch.tensor(choice.channels), torch.tensor(choice.units)
    h = torch.tensor([8 * head + i for head in choice.heads or () for i in range(8)])
    wide.text_tower.token_embedding.weight[:, c] = narrow.text_tower.token_embedding.weight
    wide.text_tower.positional_embedding[:, c] = narrow.text_tower.positional_embedding
    wide.text_tower.ln_final.weight[c], wide.text_tower.ln_final.bias[c] = (
        narrow.text_tower.ln_final.weight,
        narrow.text_tower.ln_final.bias,
    )
    wide.text_tower.text_projection[c] = narrow.text_tower.text_projection
    for old, new in zip(
        narrow.text_tower.transformer.resblocks, wide.text_tower.transformer.resblocks, strict=True
    ):  # type: ignore[arg-type]
        for norm in ("ln_1", "ln_2"):
            getattr(new, norm).weight[c], getattr(new, norm).bias[c] = (
                getattr(old, norm).weight,
                getattr(old, norm).bias,
            )
        for part in range(3):
            rows = 24 * part + h
            new.attn.in_proj_weight[rows[:, None], c] = old.attn.in_proj_weight[16 * part : 16 * part + 16]
            new.attn.in_proj_bias[rows] = old.attn.in_proj_bias[16 * part : 16 * part + 16]
        new.attn.out_proj.weight[c[:, None], h] = old.attn.out_proj.weight
        new.attn.out_proj.bias[c] = old.attn.out_proj.bias
        new.mlp.c_fc.weight[u[:, None], c], new.mlp.c_fc.bias[u] = old.mlp.c_fc.weight, old.mlp.c_fc.bias
        new.mlp.c_proj.weight[c[:, None], u], new.mlp.c_proj.bias[c] = (
            old.mlp.c_proj.weight,
            old.mlp.c_proj.bias,
        )


def test_a_tower_that_does_not_inherit_stays_as_it_was(teacher: ClipModel) -> None:
    student, before = _built(_toy(), seed=2), _built(_toy(), seed=2)
    inherit(student, teacher, image=None)
    assert torch.equal(_embed(student)[0], _embed(before)[0])
    assert torch.equal(_embed(student)[1], _embed(teacher)[1])
    assert torch.equal(student.logit_scale, before.logit_scale)


@pytest.mark.parametrize(("mine", "theirs"), [(-10.0, -16.0), (-10.0, None), (None, -16.0)])
def test_scale_and_bias_are_inherited_together(mine: float | None, theirs: float | None) -> None:
    student, before = (_built(_toy(init_logit_bias=mine), seed=2) for _ in range(2))
    teacher = _built(_toy(init_logit_bias=theirs), seed=1)
    inherit(student, teacher)
    kept = mine is not None and theirs is None  # a softmax's scale does not fit a bias
    source = before if kept else teacher
    assert student.logit_scale == source.logit_scale
    assert student.logit_bias == (source.logit_bias if mine is not None else None)


def test_a_shorter_context_keeps_short_texts_as_they_were(teacher: ClipModel) -> None:
    student = _built(_toy(None, {"context_length": 3}), seed=2)
    inherit(student, teacher, image=None)
    with torch.no_grad():
        assert torch.allclose(student.encode_text(TOKENS[:1, :3]), teacher.encode_text(TOKENS[:1]), atol=1e-6)


def test_a_smaller_embedding_is_the_first_dimensions_of_the_teachers(teacher: ClipModel) -> None:
    student = _built(_toy(embed_dim=5), seed=2)
    inherit(student, teacher)
    for mine, theirs in zip(_embed(student), _embed(teacher), strict=True):
        assert torch.allclose(mine, theirs[:, :5], atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "available", "layers"),
    [
        (1, 12, (0,)),
        (2, 12, (0, 11)),
        (3, 12, (0, 6, 11)),
        (4, 4, (0, 1, 2, 3)),
        (6, 12, (0, 2, 4, 7, 9, 11)),
    ],
)
def test_layers_are_evenly_spaced_with_both_ends(
    wanted: int, available: int, layers: tuple[int, ...]
) -> None:
    assert even_layers(wanted, available) == layers


@pytest.mark.parametrize("name", ["kdx-mini", "timm:test_vit"])
def test_other_image_towers_are_inherited_whole_with_their_statistics(name: str) -> None:
    architecture = read_architecture(name)
    teacher, student = _built(architecture, seed=1), _built(architecture, seed=2)
    for key, value in teacher.visual.state_dict().items():
        if key.endswith("running_var"):
            value.add_(1)
    inherit(student, teacher, text=None)
    mine, theirs = student.visual.state_dict(), teacher.visual.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


@pytest.mark.parametrize(
    ("student", "choice", "what"),
    [
        (_toy({"layers": 5}), TowerChoice(), "the student has 5 layers, the teacher 4"),
        (_toy({"width": 40}), TowerChoice(), "the student has 5 heads, the teacher 4"),
        (_toy({"width": 32, "head_width": 16}), TowerChoice(), "heads are 16 wide in the student, 8"),
        (_toy({"mlp_ratio": 3.0}), TowerChoice(), "the student has 96 units, the teacher 64"),
        (_toy({"image_size": 8, "patch_size": 4}), TowerChoice(), "conv1.weight needs"),
        (_toy({"image_size": 24}), TowerChoice(), "positional_embedding needs"),
        (_toy({"pool_type": "avg"}), TowerChoice(), "pooling: avg in the student, tok"),
        (_toy({"no_ln_pre": True}), TowerChoice(), "only one of the two has ln_pre.bias"),
        (_toy(quick_gelu=True), TowerChoice(), "activation: QuickGELU"),
        (_toy(embed_dim=17), TowerChoice(), "the student has 17 embedding dimensions"),
        (_toy({"layers": 2}), TowerChoice(layers=(0,)), "names 1 different layers, the student has 2"),
        (_toy({"layers": 2}), TowerChoice(layers=(0, 0)), "names 1 different layers, the student has 2"),
        (_toy({"layers": 2}), TowerChoice(layers=(0, 4)), "goes beyond the teacher's 4 layers"),
        (_toy(), TowerChoice(heads=(-1, 0, 1, 2)), "goes beyond the teacher's 4 heads"),
        (
            read_architecture("kdx-mini"),
            TowerChoice(),
            "kdx_mini in the student, VisionTransformer in the teacher",
        ),
    ],
)
def test_what_cannot_be_inherited_is_refused_on_shapes_alone(
    student: Architecture, choice: TowerChoice, what: str
) -> None:
    with torch.device("meta"):
        small, teacher = build_model(student), build_model(_toy())
    with pytest.raises(UsageError) as caught:
        inherit(small, teacher, image=choice, text=None)
    assert what in caught.value.what
    assert caught.value.remedy


def test_a_refusal_leaves_the_student_as_it_was(teacher: ClipModel) -> None:
    student, before = (_built(_toy(None, {"layers": 4}), seed=2) for _ in range(2))
    with pytest.raises(UsageError, match="text"):
        inherit(student, teacher)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in student.state_dict().items())


def test_a_choice_for_a_tower_that_is_taken_whole_is_refused() -> None:
    with torch.device("meta"):
        student, teacher = (build_model(read_architecture("kdx-mini")) for _ in range(2))
    with pytest.raises(UsageError) as caught:
        inherit(student, teacher, image=TowerChoice(layers=(0,)))
    assert "image" in caught.value.what
