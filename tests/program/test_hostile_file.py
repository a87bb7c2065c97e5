"""Files of programs that come from strangers: refused in words, or they run."""

import copy
import random

import pytest
import torch

import sparse_ops as so
from tests.convert.small_networks import Residual, images
from tests.packed_files import contents, rewritten
from tests.program.converted import converted


@pytest.fixture
def path(tmp_path):
    so.save(converted(Residual), tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


JUNK = (None, True, -1, 0, 7, 2**70, 0.5, "x", "", "weight.T", [], {}, [[]], [-1, 2**70], {"a": 1})


def places(data, here=()):
    """Where there is something in a description, however deep."""
    yield here
    inner = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in inner if isinstance(data, dict | list) else ():
        if isinstance(value, dict | list):
            yield from places(value, (*here, key))
        else:
            yield (*here, key)


def loaded_or_refused(path, x):
    """What a changed file gives, or None if it is refused in words."""
    try:
        model = so.load(path)
    except ValueError as error:
        assert len(str(error)) > 10
        return None
    with torch.no_grad():
        return model(x)


def test_junk_in_any_place_of_the_description_is_refused_or_runs(path):
    tensors, metadata, about = contents(path)
    chance, x = random.Random(0), images(2)
    everywhere = [each for each in places(about["program"]) if each]
    refused = 0
    for place in everywhere:
        for junk in chance.sample(JUNK, 3):
            changed = copy.deepcopy(about)
            owner = changed["program"]
            for key in place[:-1]:
                owner = owner[key]
            if owner[place[-1]] == junk:
                continue
            owner[place[-1]] = junk
            rewritten(path, tensors, metadata, changed)
            refused += loaded_or_refused(path, x) is None
    assert refused > len(everywhere)


def test_any_number_of_the_program_that_changes_is_refused_or_runs(path):
    tensors, metadata, about = contents(path)
    chance, x = random.Random(1), images(2)
    code = tensors["_program_code_0"]
    refused = 0
    for place in range(len(code)):
        changed = code.clone()
        changed[place] = chance.choice((-1, 0, 1, 2, 3, 64, 65, 2**24, 2**31, -(2**63), 2**63 - 1))
        rewritten(path, {**tensors, "_program_code_0": changed}, metadata, about)
        refused += loaded_or_refused(path, x) is None
    assert refused > len(code) // 2


def tensor(name, change):
    return lambda tensors, whole: tensors.update({name: change(tensors[name].clone())})


def put(t, index, value):
    t[index] = value
    return t


def constant(index, value):
    return lambda tensors, whole: whole["parts"][0]["constants"].__setitem__(index, value)


def norm_of(name):
    return {"norm": name, "part": "scale", "eps": 0.1}


NORM = ("weight", "bias", "running_mean", "running_var")
HOSTILE = {
    "no program": (lambda t, w: t.pop("_program_code_0"), "_program_code_0 is missing"),
    "another program": (lambda t, w: t.update(_program_code_1=torch.ones(1)), "no use for"),
    "an extra tensor of bytes": (
        lambda t, w: t.update(_program_extra_0=torch.ones(1, dtype=torch.uint8)),
        "int32 or float32",
    ),
    "a program of floats": (tensor("_program_code_0", lambda t: t.float()), "must be int64"),
    "a short program": (tensor("_program_code_0", lambda t: t[:5].clone()), "must be int64"),
    "a program cut off": (tensor("_program_code_0", lambda t: t[:-1].clone()), "numbers, it has"),
    "other beginnings": (tensor("_program_code_0", lambda t: put(t, 0, 1)), "no program"),
    "a later version": (tensor("_program_code_0", lambda t: put(t, 1, 9)), "version 9"),
    "a negative piece": (tensor("_program_code_0", lambda t: put(t, 3, -1)), "piece"),
    "many values": (tensor("_program_code_0", lambda t: put(t, 6, 2**40)), "too early"),
    "an order that is none": (tensor("_program_code_0", lambda t: put(t, 13, 3)), "order"),
    "a large halo": (tensor("_program_code_0", lambda t: put(t, 14, 65)), "halo"),
    "a weight of halves": (tensor("stem.weight", lambda t: t.half()), "must be float32"),
    "a weight of another shape": (tensor("stem.weight", lambda t: t[:1].clone()), "weight must"),
    "a bias of another shape": (tensor("a.bias", lambda t: t[:1].clone()), "bias must"),
    "values too few": (tensor("a.values", lambda t: t[:-1].clone()), "values must"),
    "a column too far": (tensor("a.col_indices", lambda t: put(t, 3, 72)), r"in \[0, 72\)"),
    "a negative column": (tensor("a.col_indices", lambda t: put(t, 3, -1)), r"in \[0, 72\)"),
    "columns of long": (tensor("a.col_indices", lambda t: t.long()), "int32"),
    "rows that fall": (tensor("a.crow_indices", lambda t: put(t, 3, 10**6)), "never fall"),
    "rows that go on": (tensor("a.crow_indices", lambda t: put(t, -1, 10**6)), "must go from 0"),
    "a norm of halves": (tensor("norm.running_var", lambda t: t.half()), "must be float32"),
    "a norm too short": (tensor("norm.weight", lambda t: t[:1].clone()), "must be float32"),
    "an empty norm": (
        lambda t, w: t.update({f"norm.{n}": torch.ones(0) for n in NORM}),
        "must",
    ),
    "a constant that is missing": (constant(0, "nowhere"), "is missing"),
    "an extra that is missing": (constant(0, 0), "is not there"),
    "the constant of another": (constant(0, "fc.values"), "must be"),
    "a norm that is missing": (constant(1, norm_of("x")), "no running"),
    "a norm that is none": (constant(1, {"norm": "norm"}), "must be a tensor's name"),
    "no step names": (lambda t, w: w["parts"][0].update(steps=[]), "must have names"),
    "inputs twice": (lambda t, w: w.update(inputs=[0, 0]), "different numbers"),
    "an input too far": (lambda t, w: w.update(inputs=[1]), "different numbers"),
    "an output too far": (lambda t, w: w.update(output=1), "numbers of 1 outputs"),
    "an output of sets": (lambda t, w: w.update(output={"set": []}), "numbers of 1 outputs"),
    "no parts": (lambda t, w: w.update(parts=[]), "one or two programs"),
    "a buffer that is none": (lambda t, w: w.update(buffers=["x"]), "names of tensors"),
    "ties to nothing": (lambda t, w: w.update(tied={"stem.weight": "x"}), "by others"),
    "a tie to itself": (lambda t, w: w.update(tied={"a.bias": "a.bias"}), "by others"),
    "the name of a method": (lambda t, w: t.update({"forward.weight": torch.ones(1)}), "the name"),
    "a name in a tensor": (lambda t, w: t.update({"a.bias.x": torch.ones(1)}), "the name"),
    "an empty name": (lambda t, w: t.update({"a..x": torch.ones(1)}), "the name"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_what_is_wrong(path, case):
    change, words = HOSTILE[case]
    tensors, metadata, about = contents(path)
    change(tensors, about["program"]["whole"])
    rewritten(path, tensors, metadata, about)
    with pytest.raises(ValueError, match=words):
        so.load(path)


def test_shapes_that_cannot_be_are_refused(path):
    tensors, metadata, about = contents(path)
    for shape in ([16, 3, 1, 1], [16, 4, 12, 12], [16, 3], [2**16] * 4, [0, 3, 12, 12], []):
        about["program"]["shapes"] = [shape]
        rewritten(path, tensors, metadata, about)
        if shape != [16, 3, 1, 1]:
            with pytest.raises(ValueError, match=r"step|shapes|must"):
                so.load(path)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_refused_or_runs(path, seed):
    whole, chance, x = path.read_bytes(), random.Random(seed), images(2)
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for turn in range(60):
        damaged = bytearray(whole)
        if turn % 4 == 3:
            del damaged[chance.randrange(len(whole)) :]
        else:
            for _ in range(chance.choice((1, 4))):
                place = chance.randrange(header) if turn % 2 else chance.randrange(len(whole))
                damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused += loaded_or_refused(path, x) is None
    assert refused > 15
