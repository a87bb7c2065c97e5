"""The gestures: hands are bent and drawn, a lift is called, and a clip is recognised."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.gestures import elevator, hand, model, render, train
from tests.stick_hand import BONE, places, write_hand

# A fist, two fingers, the open hand.
THREE = ("gesture_00", "gesture_02", "gesture_05")
STRAIGHT = dict.fromkeys(hand.FINGERS, 0.0)


@pytest.fixture(scope="module")
def glb(tmp_path_factory):
    return write_hand(tmp_path_factory.mktemp("hand") / "hand.glb")


@pytest.fixture(scope="module")
def sticks(glb):
    return hand.read_hand(glb)


def test_a_finger_bends_towards_the_palm_and_nothing_else_moves(sticks):
    np.testing.assert_allclose(hand.bent(sticks, STRAIGHT), sticks.vertices, atol=1e-6)
    bent = hand.bent(sticks, STRAIGHT | {"index": np.pi / 2})
    names = list(sticks.places)
    of_index = np.isin(sticks.joints[:, 0], [names.index(j) for j in hand.JOINTS["index"]])
    np.testing.assert_allclose(bent[~of_index], sticks.vertices[~of_index], atol=1e-6)
    # Three right angles: out of the palm, down, and back into it.
    x, y, z = places()[hand.JOINTS["index"][0]]
    middles = bent[of_index].reshape(3, 8, 3).mean(1)
    wanted = [[x, y, z + BONE / 2], [x, y - BONE / 2, z + BONE], [x, y - BONE, z + BONE / 2]]
    np.testing.assert_allclose(middles, wanted, atol=1e-6)


def test_a_file_that_is_no_hand_is_refused(glb, tmp_path):
    file = tmp_path / "other.glb"
    for data, words in (
        (b"<html>not a hand at all</html>", "binary glTF 2 file"),
        (glb.read_bytes()[:-3000], "can be read"),
        (glb.read_bytes().replace(b"thumb-tip", b"thumb-top"), "none called thumb-tip"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            hand.read_hand(file)


def test_what_is_nearer_hides_what_is_behind_and_backs_are_not_drawn():
    square = np.array([[-1.0, -1, 0], [0, -1, 0], [0, 1, 0], [-1, 1, 0]])
    # The left half faces the light; its upper half lies behind a face that leans away from it.
    leaning = (
        square * [1, 0.5, 1] + [0, 0.5, 0.1] + np.array([[0, 0, 0], [0, 0, 1.0]] * 2)[[0, 1, 1, 0]]
    )
    sides = np.array([[0, 1, 2], [0, 2, 3]])
    back = sides[:, ::-1] + 8
    vertices = np.concatenate([square, leaning, square + np.array([1, 0, 0])])
    triangles = np.concatenate([sides, sides + 4, back])
    bright, covered = render.shaded(vertices, triangles, np.array([0, 0, 1.0]), 8)
    assert covered[:, :4].all() and not covered[:, 4:].any()
    np.testing.assert_allclose(bright[4:, :4], 1.0)
    np.testing.assert_allclose(bright[:4, :4], np.cos(np.pi / 4))


def test_rendered_folders_are_the_same_again_and_say_what_they_are(glb, tmp_path):
    few = ["--hand", str(glb), "--images", "2", "--size", "16", "--gestures", *THREE]
    first, second = (render.main([*few, "--out", str(tmp_path / name)]) for name in "ab")
    files = sorted(f.relative_to(first).as_posix() for f in first.rglob("*.png"))
    assert files == [f"{name}/000{n}.png" for name in THREE for n in range(2)]
    assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)
    assert len({(first / f).read_bytes() for f in files}) == 6
    assert "rendered" in (first / render.MARK).read_text()


def test_the_lift_goes_where_it_is_called_and_no_further():
    lift = elevator.Elevator(hold=3, confidence=0.8)
    for floor, confidence in (
        (4, 0.9),
        (4, 0.9),
        (4, 0.7),
        (4, 0.9),
        (None, 1.0),
        (4, 0.9),
        (4, 0.9),
    ):
        lift.see(floor, confidence)
        assert lift.target == 0, "never three in a row"
    lift.see(4, 0.8)
    assert lift.target == 4 and lift.moving
    lift.move(3.0)
    assert (lift.metres, lift.floor) == (3.0, 2)
    # Another call on the way.
    for _ in range(3):
        lift.see(1, 1.0)
    lift.move(0.5)
    assert lift.metres == 2.5
    lift.move(60.0)
    assert (lift.metres, lift.floor, lift.moving) == (2.0, 1, False)
    with pytest.raises(ValueError, match="floor must be in 0 to 13, got 14"):
        lift.see(14, 1.0)
    with pytest.raises(ValueError, match="hold must be 1 or more, got 0"):
        elevator.Elevator(hold=0)


def test_a_gesture_stands_for_the_floor_in_its_name():
    found = {
        n: elevator.floor_of(n) for n in ("gesture_07", "Gesture 13", "14", "fist", "2-hands-3")
    }
    assert found == {"gesture_07": 7, "Gesture 13": 13, "14": None, "fist": None, "2-hands-3": 3}


@pytest.fixture(scope="module")
def learned(glb, tmp_path_factory):
    """A folder of three rendered gestures, and what was learned from it."""
    before = torch.get_num_threads()
    images, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("model")
    few = ["--hand", str(glb), "--images", "40", "--size", "32", "--gestures", *THREE]
    render.main([*few, "--out", str(images)])
    short = ["--quick", "--batch", "16", "--epochs", "8", "--sparse-epochs", "8", "--budget", "0.5"]
    found = train.main([*short, "--folder", str(images), "--out", str(out)])
    torch.set_num_threads(before)
    return images, out, found


def test_three_phases_make_a_sparse_network_that_is_packed(learned):
    _, out, found = learned
    assert found["packed"] == found["cut"] >= 0.8
    assert 0.05 < found["sparsity"] < 1
    settings, dense, packed, pictures = model.load(out)
    assert settings.rendered and settings.classes == THREE
    assert [p.shape for p in pictures] == 3 * [(32, 32, 3)]
    x = model.prepared(pictures[1], 32)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense(x), rtol=1e-3, atol=1e-3)
    file = out / model.SETTINGS
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {"network": "other"}))
    with pytest.raises(ValueError, match=r"network must be one of .*, got 'other'"):
        model.load(out)
    file.write_text(text)


def clip_of(sticks, cv2, file: Path, gestures: list[tuple[int, int]], size: int = 32) -> None:
    """A video, 10 frames a second: each gesture for so many frames, in a part of a busy frame."""
    rng = np.random.default_rng(7)
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (160, 120))
    assert video.isOpened()
    stretched = list(render.GESTURES.values())
    for gesture, count in gestures:
        for _ in range(count):
            frame = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
            picture = render.photograph(sticks, stretched[gesture], size, rng)
            picture = np.array(Image.fromarray(picture).resize((64, 64), Image.Resampling.BILINEAR))
            frame[40:104, 60:124] = picture[:, :, ::-1]
            video.write(frame)
    video.release()


def opencv():
    # An ImportError, too: of a machine without a graphics library.
    words = "OpenCV cannot be imported: the extra gestures has it"
    return pytest.importorskip("cv2", reason=words, exc_type=ImportError)


def test_a_clip_is_recognised_and_the_lift_follows(learned, sticks, tmp_path):
    cv2 = opencv()
    from examples.gestures import recognise

    _, out, _ = learned
    shown = [(2, 60), (5, 80), (0, 120)]
    clip_of(sticks, cv2, tmp_path / "clip.avi", shown)
    video = tmp_path / "annotated.mp4"
    more = ["--model", str(out), "--confidence", "0.4", "--hold", "4"]
    region = ["--roi", "60,40,64,64", "--out", str(video)]
    found = recognise.main([str(tmp_path / "clip.avi"), *more, *region])
    wanted = [f"gesture_{g:02}" for g, count in shown for _ in range(count)]
    right = sum(a == b for a, b in zip(found["labels"], wanted, strict=True))
    assert right >= 0.8 * len(wanted) and all(found["agree"])
    # Where it is when the next gesture comes: a floor is two seconds away from the next.
    assert [found["floors"][at] for at in (0, 59, 139, 259)] == [0, 2, 5, 0]
    written = cv2.VideoCapture(str(video))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 260
    there, frame = written.read()
    assert there and frame.shape == (424, 480 + 230 + 110, 3)


def test_a_folder_is_recognised_and_what_will_not_do_is_refused(learned, tmp_path):
    opencv()
    from examples.gestures import recognise

    images, out, _ = learned
    more = ["--model", str(out), "--out", str(tmp_path / "out.avi")]
    found = recognise.main([str(images / "gesture_05"), *more, "--frames", "30"])
    assert len(found["labels"]) == 30
    assert Counter(found["labels"]).most_common(1)[0][0] == "gesture_05"
    for arguments, words in (
        (["none.mp4", *more], "must be a camera's number, a video file or a folder"),
        ([str(tmp_path), *more], "must hold .*png"),
        ([str(images), *more, "--roi", "99,0,5,5"], "lies outside of a frame of 32×32"),
        ([str(images), "--model", "none", *more[2:]], "settings.json"),
        ([str(images), *more[:2], "--out", str(tmp_path / "out.txt")], "cannot write .*out.txt"),
    ):
        with pytest.raises(SystemExit, match=words):
            recognise.main(arguments)


def test_a_drag_chooses_the_region_and_a_click_does_not(monkeypatch):
    cv2 = opencv()
    from examples.gestures import recognise

    for name in ("namedWindow", "setMouseCallback", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    keys = iter("xrq")
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord(next(keys)))
    window = recognise.Window(None)
    picture = np.zeros((360, 480, 3), dtype=np.uint8)
    assert window.show(picture, 1.5)
    # From the lower right corner to the upper left one; the picture is shown half as large again.
    window.mouse(cv2.EVENT_LBUTTONDOWN, 300, 240)
    window.mouse(cv2.EVENT_LBUTTONUP, 150, 90)
    assert window.box == (100, 60, 100, 100)
    window.mouse(cv2.EVENT_LBUTTONDOWN, 5, 5)
    window.mouse(cv2.EVENT_LBUTTONUP, 6, 6)
    assert window.box == (100, 60, 100, 100)
    assert window.show(picture, 1.5) and window.box is None
    assert not window.show(picture, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vgg11", "mobilenet_v2"])
def test_the_networks_of_the_publication_are_cut_packed_and_loaded(network, learned, tmp_path):
    images, _, _ = learned
    short = ["--network", network, "--size", "32", "--epochs", "1", "--sparse-epochs", "1"]
    short += ["--lr", "1e-4", "--budget", "2", "--folder", str(images)]
    found = train.main([*short, "--out", str(tmp_path)])
    assert found["packed"] == found["cut"]
    _, dense, packed, pictures = model.load(tmp_path)
    x = model.prepared(pictures[0], 32)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense(x), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_hand_of_the_package_shows_fourteen_gestures(tmp_path):
    if not render.HAND.is_file():
        pytest.skip(f"{render.HAND} is not there: python -m examples.gestures.render --fetch")
    images = render.main(["--images", "60", "--size", "32", "--out", str(tmp_path / "images")])
    more = ["--quick", "--epochs", "20", "--batch", "16", "--folder", str(images)]
    found = train.main([*more, "--out", str(tmp_path / "model")])
    assert found["trained"] > 0.6 and found["packed"] == found["cut"]
