"""The images and the network of a recipe, made to go together."""

import inspect
from dataclasses import replace

import torch
from torch import nn

from sparse_ops import data as sets
from sparse_ops.data import Dataset, Normalize, Split
from sparse_ops.models import MODELS
from sparse_ops.training.recipes.recipe import Recipe
from sparse_ops.training.recipes.small import fresh

# The least height and width that a network takes; images that are smaller get a black frame.
LEAST = {"vgg11": 32, "vgg16": 32, "vgg19": 16}
# (C, H, W) of networks that take nothing else.
ONLY = {"lenet300": (1, 28, 28), "lenet5": (1, 28, 28)}


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data, normalized as it says, in a frame where its network needs larger images.

    Raises:
        ValueError: mean and deviation are given for images that are not bytes; and as `load`.
        OSError: as `load`.
    """
    size = {key: value for key, value in recipe.data.items() if key == "size"}
    data = sets.load(recipe.data["name"], recipe.data.get("folder"), **size)
    if "mean" in recipe.data or "deviation" in recipe.data:
        if data.train.normalize is None:
            raise ValueError(f"{data.name} comes normalized: mean and deviation are not for it")
        normalize = Normalize(recipe.data["mean"], recipe.data["deviation"])
        train, test = (replace(split, normalize=normalize) for split in (data.train, data.test))
        data = replace(data, train=train, test=test)
    least = LEAST.get(recipe.model["name"], 1)
    return replace(data, train=framed(data.train, least), test=framed(data.test, least))


def framed(split: Split, least: int) -> Split:
    """The split with images of at least `least` × `least`: black around those that are smaller."""
    images = split.images
    height, width = images.shape[2:]
    if min(height, width) >= least:
        return split
    # The darkest there is, channel by channel: of bytes that are yet to be normalized it is 0.
    dark = images.amin(dim=(0, 2, 3)) if split.normalize is None else images.new_zeros(())
    size = (*images.shape[:2], max(least, height), max(least, width))
    larger = dark.view(-1, 1, 1).expand(size[1:]).repeat(size[0], 1, 1, 1)
    top, left = (size[2] - height) // 2, (size[3] - width) // 2
    larger[:, :, top : top + height, left : left + width] = images
    return replace(split, images=larger)


def model_options(recipe: Recipe, data: Dataset) -> dict[str, object]:
    """What the recipe's network is built with for that data.

    Raises:
        ValueError: the network does not take such images; the message says what does.
    """
    name = recipe.model["name"]
    shape = tuple(data.train.images.shape[1:])
    if ONLY.get(name, shape) != shape:
        raise ValueError(
            f"{name} takes images of {_times(ONLY[name])}, {data.name} has {_times(shape)}: "
            "set model.name to a network that takes any, such as small_vgg or resnet18, or "
            "data.name to a set of such images, such as fashion-mnist-subset"
        )
    options = {key: value for key, value in recipe.model.items() if key != "name"}
    if "in_channels" in inspect.signature(MODELS[name]).parameters:
        options.setdefault("in_channels", shape[0])
    options.setdefault("num_classes", len(data.classes))
    return options


def build_model(recipe: Recipe, data: Dataset, seed: int) -> nn.Module:
    """The recipe's network for that data, with first weights of that seed.

    Raises:
        ValueError: the network does not take such images, or is one of somebody else's.
    """
    name = recipe.model["name"]
    if name not in MODELS:
        raise ValueError(f"{name} is not one of {', '.join(MODELS)}: give the network itself")
    options = model_options(recipe, data)
    return fresh(lambda: MODELS[name](**options), seed)


def has_norms(model: nn.Module) -> bool:
    """Whether there is a BatchNorm in it."""
    return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape)
